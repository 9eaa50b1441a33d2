"""Formats of strings mean what they say: a table of valid and invalid values, tried against two other implementations.

`format` of JSON Schema in src/text/format.c. Each value of the table is tried with the compiled grammar (in a JSON string),
with the format checkers of jsonschema (rfc3339-validator, isoduration, rfc3987-syntax, ...), and with pydantic. Where one of
those disagrees with the RFC, the value stands in DISSENT with the reason.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import datetime
import ipaddress
import json
import subprocess
import uuid

import pytest

from conftest import BUILD

jsonschema = pytest.importorskip("jsonschema")
pydantic = pytest.importorskip("pydantic")
email_validator = pytest.importorskip("email_validator")
jsonpointer = pytest.importorskip("jsonpointer")
rfc3986_validator = pytest.importorskip("rfc3986_validator")
uri_template = pytest.importorskip("uri_template")
validators = pytest.importorskip("validators")
for name in ("fqdn", "isoduration", "rfc3987_syntax", "rfc3339_validator"):
    pytest.importorskip(name)

LABEL63 = "a" * 63
TABLE = {
    "date": (
        ["1963-06-19", "2020-01-31", "2021-02-28", "2020-02-29", "2000-02-29", "2024-04-30", "2023-12-31", "0001-01-01",
         "9999-12-31", "2023-07-30", "2023-08-29", "0004-02-29", "2400-02-29"],
        ["2020-01-32", "2021-02-29", "1900-02-29", "2100-02-29", "2020-02-30", "2020-04-31", "2020-06-31", "2020-09-31", "2020-11-31",
         "2020-13-01", "2020-00-10", "2020-01-00", "1998-1-20", "1998-01-1", "06/19/1963", "2013-350", "1963-06-1৪", "20230328",
         "2023-W01", "", "2020-01-011", "12020-01-01"]),
    "time": (
        ["08:30:06Z", "08:30:06.283185Z", "08:30:06+00:20", "08:30:06-08:00", "23:59:60Z", "23:59:60+00:00", 
         "23:59:59.9z", "00:00:00-00:00", "23:20:50.52Z", "12:00:00.123456789Z"],
        ["08:30:06 PST", "01:01:01,1111", "24:00:00Z", "00:60:00Z", "00:00:61Z", "22:59:60Z", "23:58:60Z", "23:59:60+01:00",
         "23:59:60-00:30", "01:02:03+24:00", "01:02:03+00:60", "08:30:06", "8:30:06Z", "08:30Z", "08:30:06.Z", "08:30:06#00:20",
         "12:00:00", "", "08:30:06Z+00:20"]),
    "date-time": (
        ["1963-06-19T08:30:06.283185Z", "1963-06-19T08:30:06Z", "1937-01-01T12:00:27.87+00:20", "1990-12-31T15:59:50.123-08:00",
         "1998-12-31T23:59:60Z", "1963-06-19t08:30:06.283185z", "2024-02-29T00:00:00Z",
         "2024-01-31T23:59:59+14:00"],
        ["1998-12-31T23:59:61Z", "1998-12-31T23:58:60Z", "1998-12-31T22:59:60Z", "1990-02-31T15:59:59.123-08:00",
         "1990-12-31T15:59:59-24:00", "1963-06-19T08:30:06.28123+01:00Z", "06/19/1963 08:30:06 PST", "2013-350T01:01:01",
         "1963-6-19T08:30:06.283185Z", "1963-06-1T08:30:06.283185Z", "1963-06-1৪T00:00:00Z", "1963-06-11T0৪:00:00Z",
         "2023-02-29T00:00:00Z", "2024-01-31T23:59:59", "2024-01-31", ""]),
    "duration": (
        ["P4DT12H30M5S", "P4Y", "PT0S", "P0D", "P1M", "PT1M", "PT36H", "P1DT12H", "P2W", "P1Y2M3DT4H5M6S", "P1Y2M", "P2M3D", "PT4H5M",
         "PT5M6S", "P1YT1S", "P99Y", "P12345D"],
        ["PT1D", "4DT12H30M5S", "P", "P1YT", "P2D1Y", "P1D2H", "P2S", "P1Y2W", "P1Y2D", "PT1H2S", "P0.5D", "PT1.5S", "P-1D", "-P1D", "P৪Y",
         "PT", "", "P1H", "P4DT"]),
    "uuid": (
        ["2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2EB8AA08-AA98-11EA-B4AA-73B441D16380", "2eb8aa08-AA98-11ea-B4Aa-73B441D16380",
         "00000000-0000-0000-0000-000000000000", "98d80576-482e-427f-8434-7f86890ab222", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
        ["2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08-aa98-11ea-73b441d16380", "2eb8aa08-aa98-11ea-b4ga-73b441d16380",
         "2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08aa98-11ea-b4aa73b441d16380", "2eb8-aa08-aa98-11ea-b4aa73b44-1d16380", ""]),
    "email": (
        ["joe.bloggs@example.com", "te~st@example.com", "~test@example.com", "test~@example.com", "te.s.t@example.com",
         "riedgar+guidance@example.com", "a@b.co", "O'Brien!#$%&*+/=?^_`{|}~-@example.com", "x@sub.example.co.uk", "A1@EXAMPLE.org",
         "\"joe bloggs\"@example.com", "\"joe..bloggs\"@example.com", "\"joe@bloggs\"@example.com", "joe.bloggs@[127.0.0.1]",
         "joe.bloggs@[IPv6:::1]", "a" * 64 + "@example.com"],
        ["2962", ".test@example.com", "test.@example.com", "te..st@example.com", "joe.bloggs@invalid=domain.com",
         "joe.bloggs@[127.0.0.300]", "user1@oceania.org, user2@oceania.org", "a@", "@b.c", "a b@c.de", "joe@-example.com", "joe@example-.com",
         "joe@ex ample.com", "a" * 65 + "@example.com", ""]),
    "hostname": (
        ["www.example.com", "example.com", "localhost", "xn--4gbwdl.xn--wgbh1c", "1host", "h", "HOST-name.example", LABEL63 + ".com",
         "a.b.c.d.e.f.g.h.i.j.k", ".".join([LABEL63] * 3 + ["a" * 61])],
        ["-a-host-name-that-starts-with--", "not_a_valid_host_name", "a-very-long-host-name-component" + "x" * 63, "-hostname", "hostname-",
         "_hostname", "host_name", LABEL63 + "a.com", ".example", "a..b", "", ".", ".".join([LABEL63] * 3 + ["a" * 62]), "a b", "é.com"]),
    "ipv4": (
        ["192.168.0.1", "0.0.0.0", "255.255.255.255", "87.10.0.1", "1.2.3.4"],
        ["127.0.0.0.1", "256.256.256.256", "127.0", "0x7f000001", "2130706433", "087.10.0.1", "1২7.0.0.1", "192.168.1.0/24", "", "1.2.3.",
         "1.2.3.04"]),
    "ipv6": (
        ["::1", "::", "::abef", "1::", "::ffff:192.168.0.1", "1:2::192.168.0.1", "::42:ff:1", "d6::", "1:d6::42", "1::d6:192.168.0.1",
         "1000:1000:1000:1000:1000:1000:255.255.255.255", "1:2:3:4:5:6:7:8", "2001:DB8::1", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8",
         "1::3:4:5:6:7:8", "fe80::a:b", "64:ff9b::192.0.2.33", "1:2:3:4:5::1.2.3.4"],
        ["12345::", "::abef1", "1:1:1:1:1:1:1:1:1:1", "::laptop", ":2:3:4:5:6:7:8", "1:2:3:4:5:6:7:", ":2:3:4::8", "1::d6::42",
         "1::2:192.168.256.1", "1::2:192.168.ff.1", "::ffff:192.168.0.1.1", "1:2:3:4:1.2.3", "1:2:3:4:5:6:7", "1", "127.0.0.1",
         "1:2:3:4:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "  ::1", "::1  ", "fe80::/64", "fe80::a%eth1", "1:2:3:4:5:6:7:৪", "1:2::192.16৪.0.1",
         "100:100:100:100:100:100:255.255.255.255.255", "", "1::2:3:4:5:6:7:8", ":", ":::"]),
    "uri": (
        ["http://foo.bar/?baz=qux#quux", "http://foo.com/blah_(wikipedia)_blah#cite-1", "http://foo.bar/?q=Test%20URL-encoded%20stuff",
         "http://xn--nw2a.xn--j6w193g/", "http://-.~_!$&'()*+,;=:%40:80%2f::::::@example.com", "http://223.255.255.254",
         "ftp://ftp.is.co.za/rfc/rfc1808.txt", "http://www.ietf.org/rfc/rfc2396.txt", "ldap://[2001:db8::7]/c=GB?objectClass?one",
         "mailto:John.Doe@example.com", "news:comp.infosystems.www.servers.unix", "tel:+1-816-555-1212",
         "urn:oasis:names:specification:docbook:dtd:xml:4.1.2", "file:///etc/passwd", "file:/etc/passwd", "data:text/plain,hi",
         "https://user@host:8080/a/b;c=1/d?x=1&y=2#f", "urn:isbn:0451450523", "about:blank", "http://[v1.a:b]/", "x:", "HTTP://EXAMPLE.com",
         "https://example.com/" + "a" * 300, "git+ssh://h/r.git"],
        ["//foo.bar/?baz=qux#quux", "/abc", "\\\\WINDOWS\\fileshare", "abc", "http:// shouldfail.com", ":// should fail", "bar,baz:foo",
         "https://[@example.org/test.txt", "https://example.org/foobar\\.txt", "https://example.org/foobar<>.txt",
         "https://example.org/foobar{}.txt", "https://example.org/foobar^.txt", "https://example.org/foobar`.txt",
         "https://example.org/foo bar.txt", "https://example.org/foobar|.txt", "http://a/%2", "http://a/%zz", "1http://a", "",
         "http://a/é", "http://[::1", "http://a#b#c"]),
    "uri-reference": (
        ["http://foo.bar/?baz=qux#quux", "//foo.bar/?baz=qux#quux", "/abc", "abc", "#fragment", "", "?q", "../a/b", "./a:b", "a/b:c"],
        ["\\\\WINDOWS\\fileshare", "#frag\\ment", "a b", "1a:b", "%"]),
    "iri": (
        ["http://ƒøø.ßår/?∂éœ=πîx#πîüx", "http://ƒøø.com/blah_(wîkïpédiå)_blah#ßité-1", "http://[2001:0db8:85a3:0000:0000:8a2e:0370:7334]", "urn:é"],
        ["/abc", "\\\\WINDOWS\\filëßåré", "âππ", "http:// é", ""]),
    "json-pointer": (
        ["", "/foo/bar~0/baz~1/%a", "/foo/0", "/", "/a~1b", "/ ", "/k\"l", "/i\\j", "/foo//bar", "/~0~1"],
        ["/foo/bar~", "/~0.1~", "foo", "#/a", "a/b", "/~2", "0"]),
    "relative-json-pointer": (
        ["1", "0/foo/bar", "2/0/baz/1/zip", "0#", "120/foo/bar"],
        ["/foo/bar", "-1/foo/bar", "0##", "01/a", "01#", "", "+1/foo/bar"]),
    "uri-template": (
        ["http://example.com/dictionary/{term:1}/{term}", "http://example.com/dictionary", "dictionary/{term:1}/{term}", "{?q,page*}", "{+x}"],
        ["http://example.com/dictionary/{term:1}/{term", "{a,}", "{}", "a}"]),
    "byte": (["", "YQ==", "YWI=", "YWJj", "+/+/"], ["Y", "YQ", "YQ=", "YR==", "YQ==YQ==", "-_-_"]),
}
# Where another implementation says otherwise than the RFC: values it takes wrongly, or does not take.
NO_SECOND_60 = ["23:59:60Z", "23:59:60+00:00", "1998-12-31T23:59:60Z"]
DISSENT = {
    "jsonschema": {
        "time": NO_SECOND_60, "date-time": NO_SECOND_60,
        "duration": ["P1Y2D", "PT1H2S", "P0.5D", "PT1.5S", "P-1D", "-P1D"],  # ISO 8601 allows more than RFC 3339
        "email": [v for v in TABLE["email"][1] if "@" in v],  # looks for an @
        "uri-template": ["{a,}"]},
    "second": {
        "time": NO_SECOND_60 + ["01:01:01,1111", "08:30:06", "08:30Z", "12:00:00"],  # naive times
        "date-time": NO_SECOND_60 + ["2024-01-31T23:59:59", "2024-01-31"],
        "duration": ["P1YT", "P2D1Y", "P1Y2W", "P1Y2D", "PT1H2S", "P0.5D", "PT1.5S", "-P1D", "P4DT"],
        "uuid": ["2eb8aa08aa9811eab4aa73b441d16380"],
        "email": ["a" * 65 + "@example.com"],
        "hostname": ["a.b.c.d.e.f.g.h.i.j.k", "é.com"],
        "ipv6": ["fe80::a%eth1"],
        # a browser's reader mends what is wrong
        "uri": ["http://[v1.a:b]/", "http://a/%2", "http://a/%zz", "http://a/é", "http://a#b#c"] +
               [v for v in TABLE["uri"][1] if v.startswith("https://")],
        "uri-template": ["{a,}"],
        "byte": ["YR==", "YQ==YQ==", "-_-_"]},
}


def walk(requests):
    text = "".join(json.dumps(q) + "\n" for q in requests)
    out = subprocess.run([BUILD / "tests/prop_grammar", "--walk"], input=text.encode(), capture_output=True, timeout=300)
    assert out.returncode == 0, out.stderr.decode()
    return [json.loads(line) for line in out.stdout.decode().split("\n") if line]


def quern(name, values):
    texts = [json.dumps(v, ensure_ascii=False) for v in values]
    return walk([{"schema": {"type": "string", "format": name}, "strict": True, "texts": texts}])[0]["accepts"]


CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


def by_jsonschema(name, value):
    if name == "byte":  # it knows none
        try:
            return value == base64.b64encode(base64.b64decode(value, validate=True)).decode()
        except ValueError:
            return False
    return CHECKER.conforms(value, name)


def by_email_validator(value):
    email_validator.validate_email(value, check_deliverability=False, allow_quoted_local=True, allow_domain_literal=True,
                                   test_environment=True, globally_deliverable=False)


def by_pointer(value):
    jsonpointer.JsonPointer(value)


def by_template(value):
    uri_template.URITemplate(value)


SECOND = {
    "date": pydantic.TypeAdapter(datetime.date).validate_python,
    "time": pydantic.TypeAdapter(datetime.time).validate_python,
    "date-time": pydantic.TypeAdapter(datetime.datetime).validate_python,
    "duration": pydantic.TypeAdapter(datetime.timedelta).validate_python,
    "uuid": pydantic.TypeAdapter(uuid.UUID).validate_python,
    "ipv4": pydantic.TypeAdapter(ipaddress.IPv4Address).validate_python,
    "ipv6": pydantic.TypeAdapter(ipaddress.IPv6Address).validate_python,
    "uri": pydantic.TypeAdapter(pydantic.AnyUrl).validate_python,
    "email": by_email_validator,
    "hostname": lambda v: validators.hostname(v, may_have_port=False, skip_ipv4_addr=True, skip_ipv6_addr=True, consider_tld=False) is True or 1 / 0,
    "json-pointer": by_pointer,
    "uri-template": by_template,
    "uri-reference": lambda v: rfc3986_validator.validate_rfc3986(v, rule="URI_reference") or 1 / 0,
    "byte": lambda v: pydantic.TypeAdapter(pydantic.Base64Bytes).validate_python(v.encode()),
}


def by_second(name, value):
    try:
        SECOND[name](value)
        return True
    except Exception:
        return False


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    valid, invalid = TABLE[name]
    assert [v for v, ok in zip(valid, quern(name, valid)) if not ok] == [], "valid, but out of reach"
    assert [v for v, ok in zip(invalid, quern(name, invalid)) if ok] == [], "invalid, but within reach"


@pytest.mark.parametrize("which", ["jsonschema", "second"])
@pytest.mark.parametrize("name", TABLE)
def test_others_agree(name, which):
    ask = by_jsonschema if which == "jsonschema" or name not in SECOND else by_second
    for values, want in zip(TABLE[name], (True, False)):
        for v in values:
            assert (ask(name, v) == want) != (v in DISSENT[which].get(name, [])), v


@pytest.mark.parametrize("name", TABLE)
def test_walks(name):
    """What a model may write under the mask, others read."""
    answers = walk([{"schema": {"type": "string", "format": name}, "strict": True, "seed": i, "walks": 3} for i in range(20)])
    got = [json.loads(a["text"]) for a in answers if "error" not in a]
    assert len(got) > 30
    for v in got:
        # leap seconds; numbers with a 0 inside; the upper planes: jsonschema's own faults
        is_known = ":60" in v or (name == "relative-json-pointer" and "0" in v) or (name.startswith("iri") and max(v) > "\uffff")
        assert is_known or by_jsonschema(name, v), v


def test_formats_that_pydantic_writes():
    """Each type of pydantic whose schema has a format."""
    for t in (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, uuid.UUID, pydantic.UUID4, pydantic.EmailStr, pydantic.AnyUrl,
              pydantic.HttpUrl, ipaddress.IPv4Address, ipaddress.IPv6Address, pydantic.IPvAnyAddress, ipaddress.IPv4Interface,
              pydantic.SecretStr, pydantic.FilePath, pydantic.DirectoryPath, pydantic.Base64Bytes, pydantic.Base64UrlStr, bytes):
        schema = pydantic.TypeAdapter(t).json_schema()
        for answer in walk([{"schema": schema, "strict": True, "seed": 1, "walks": 2}]):
            assert "error" not in answer, (schema, answer)
