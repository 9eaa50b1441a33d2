# Seeded dialogues for quern-mini.
#
# Everything is made here from word lists, syllables and sentence patterns; the only outside text is the
# word list of Debian's wamerican-small or wamerican package (SCOWL, free licence), used for nouns and names.
# SPDX-License-Identifier: Apache-2.0
"""Yields dialogues {"skill", "tools", "messages", "thinking"}; "held" switches to the held-out words."""

import json
import os
import random
import re
import zlib

WORD_FILES = ("/usr/share/dict/american-english", "/usr/share/dict/words")


def _dictionary():
    for path in WORD_FILES:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                words = [w.strip() for w in f]
            return [w for w in words if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 9
                    and not w.endswith("s")]
    raise SystemExit("no word list: install the Debian package wamerican")


# Words that the patterns themselves use; they never serve as made-up nouns.
RESERVED = set("""the and with for from that this not are was has have had but you your can may will get set put all
none true false null name type string number integer boolean array object function parameter value tool call required
description properties yes off on please answer what which who where when how many much does did is be it its of to in
at by as an or if no so do use user list also then there than into about give json text file code""".split())

COMMON = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work night point home water room mother area money story fact
month lot right study book eye job word business issue side kind head house service friend father power hour game line
end member law car city community team minute idea body back parent face level office door health person art war history
party result change morning reason research girl guy moment air teacher force education foot boy age policy music market
sense nation plan college interest death course effect table garden river bridge train ticket invoice order customer
account server cluster database record report email message event meeting task note photo song movie recipe flight hotel
weather price stock sensor light lamp camera printer folder branch commit package container image network device backup
schedule reminder alarm timer playlist product shipment parcel address contact calendar document page comment review
project budget payment refund subscription license token key user profile role permission queue job worker log metric
alert incident deploy build test suite module library engine motor valve pump tank oven fridge window curtain robot
drone map route station bus taxi bike seat menu dish drink coffee tea bread apple lemon cheese soup salad""".split()

VERBS = {  # verb in the tool: (description openers, words of the user)
    "get": (["Get", "Return", "Get"], ["get", "fetch", "show me", "tell me", "give me", "look up"]),
    "create": (["Create", "Make", "Create"], ["create", "make", "set up"]),
    "delete": (["Delete", "Remove", "Delete"], ["delete", "remove", "erase"]),
    "update": (["Update", "Change", "Modify"], ["update", "change", "modify"]),
    "send": (["Send", "Deliver", "Send"], ["send", "deliver"]),
    "find": (["Find", "Search for", "Look for"], ["find", "search for", "look for"]),
    "start": (["Start", "Launch", "Run"], ["start", "launch", "run"]),
    "stop": (["Stop", "Halt", "Stop"], ["stop", "halt", "shut down"]),
    "open": (["Open", "Open"], ["open"]),
    "close": (["Close", "Close"], ["close"]),
    "check": (["Check", "Inspect", "Verify"], ["check", "inspect", "verify"]),
    "count": (["Count", "Count"], ["count"]),
    "move": (["Move", "Relocate"], ["move", "relocate"]),
    "copy": (["Copy", "Duplicate"], ["copy", "duplicate"]),
    "book": (["Book", "Reserve"], ["book", "reserve"]),
    "add": (["Add", "Append"], ["add", "append"]),
    "convert": (["Convert", "Transform"], ["convert", "transform"]),
    "play": (["Play"], ["play"]),
    "print": (["Print"], ["print"]),
    "save": (["Save", "Store"], ["save", "store"]),
    "read": (["Read"], ["read"]),
    "write": (["Write"], ["write"]),
}
VERB_NAMES = list(VERBS)

FIRST = """Anna Ben Carla David Emma Felix Grace Hugo Ida Jack Kara Liam Maria Noah Olga Paul Rosa Sam Tina Victor Wendy
Yusuf Zoe Alan Beth Chen Dora Erik Fatima George""".split()
PLACES = """Berlin Paris London Madrid Rome Vienna Oslo Dublin Lisbon Prague Tokyo Delhi Cairo Lima Boston Chicago Denver
Seattle Austin Toronto Sydney Geneva Zurich Hamburg Munich Athens Warsaw Helsinki Stockholm Nairobi""".split()
COLORS = "red blue green yellow black white orange purple brown grey pink silver".split()
EXTENSIONS = "txt md py c h json csv log png yaml toml html".split()
DOMAINS = "com org net io dev".split()

ONSETS = {False: "b br d dr f fl g gr h k kl l m n p pl r s sk st t tr v z".split(),
          True: "bl c ch cr dw fr gl j kr mn pr qu sh sl sp th tw vr w y".split()}
VOWELS = {False: "a e i o u ai ea io".split(), True: "a e i o u oa ie ue".split()}
CODAS = {False: "_ _ _ n r l m s t x nd".replace("_", "-").split(), True: "- - - p k g b d rk lt ng".split()}


def held_word(word):
    """One word in eight of the dictionary is kept for the held-out set."""
    return zlib.crc32(word.encode()) % 8 == 0


class Words:
    def __init__(self, rng, held):
        self.r, self.held = rng, held
        known = _dictionary()
        self.dictionary = [w for w in known if held_word(w) == held and w not in RESERVED and w not in VERBS]
        self.common = [w for w in COMMON if held_word(w) == held and w not in RESERVED and w not in VERBS]
        self.glue = 0.0  # share of nouns that are glued together, see glued()
        self.barred = {w for w in known + COMMON if held_word(w)}
        syllable = "(?:%s)(?:%s)(?:%s)?" % tuple("|".join(x for x in t[True] if x != "-") for t in (ONSETS, VOWELS, CODAS))
        self.held_syllables = re.compile("(?:%s)+" % syllable)

    def made(self, n=None):
        r = self.r
        out = ""
        for _ in range(n or r.choice((1, 2, 2, 2, 3))):
            coda = r.choice(CODAS[self.held])
            out += r.choice(ONSETS[self.held]) + r.choice(VOWELS[self.held]) + ("" if coda == "-" else coda)
        return out if len(out) > 2 and out not in RESERVED else self.made(2)

    def glued(self):
        """The head of one training word and the tail of another: letters in orders that no word list has, to practise on
        names that split into unusual pieces. Never a held-out word, never made of held-out syllables."""
        while True:
            a, b = self.r.choice(self.dictionary), self.r.choice(self.dictionary)
            w = a[:self.r.randint(1, 4)] + b[-self.r.randint(2, 4):]
            if w not in RESERVED and w not in VERBS and w not in self.barred and not self.held_syllables.fullmatch(w):
                return w

    def noun(self):
        if self.glue and self.r.random() < self.glue:
            return self.glued()
        x = self.r.random()
        if x < 0.35:
            return self.r.choice(self.common)
        return self.r.choice(self.dictionary) if x < 0.75 else self.made()


class Generator:
    def __init__(self, seed=1, held=False, max_tools=4):
        self.r = random.Random(seed)
        self.w = Words(self.r, held)
        self.held = held
        self.max_tools = max_tools
        self.opaque = 0.2  # share of tools whose name says nothing: only the description tells what they do

    # ---- values -------------------------------------------------------------------------------------------------
    def join_name(self, words):
        style = self.r.random()
        if style < 0.62:
            return "_".join(words)
        if style < 0.8:
            return words[0] + "".join(w.capitalize() for w in words[1:])
        if style < 0.9:
            return "-".join(words)
        return "".join(w.capitalize() for w in words) if style < 0.95 else "".join(words)

    def person(self):
        r = self.r
        return r.choice(FIRST) + (" " + self.w.made(2).capitalize() if r.random() < 0.6 else "")

    def digits(self, n):
        return "".join(self.r.choice("0123456789") for _ in range(n))

    def string_value(self):
        """Returns (value, may stand without quotes)."""
        r = self.r
        k = r.randrange(14)
        if k == 0:
            return self.w.noun(), True
        if k == 1:
            return self.w.made().capitalize(), True
        if k == 2:
            return r.choice(PLACES) if r.random() < 0.5 else self.w.made(2).capitalize(), True
        if k == 3:
            return self.person(), True
        if k == 4:
            depth = r.randrange(1, 4)
            path = "/".join(self.w.noun() for _ in range(depth)) + "." + r.choice(EXTENSIONS)
            return r.choice(("", "/", "./", "~/"))[:2] + path, True
        if k == 5:
            return "%s@%s.%s" % (self.w.noun(), self.w.noun(), r.choice(DOMAINS)), True
        if k == 6:
            return "20%s-%02d-%02d" % (self.digits(2), r.randint(1, 12), r.randint(1, 28)), True
        if k == 7:
            return "%02d:%s" % (r.randint(0, 23), r.choice(("00", "15", "30", "45", self.digits(1).replace("6", "1") + "5"))), True
        if k == 8:
            return self.w.noun()[:3].upper() + "-" + self.digits(r.randint(2, 4)), True
        if k == 9:
            return "https://%s.%s/%s" % (self.w.noun(), r.choice(DOMAINS), self.w.noun()), True
        if k == 10:
            return r.choice(COLORS), True
        if k == 11:
            words = [self.w.noun() for _ in range(r.randint(2, 4))]
            return " ".join(words), len(words) == 2
        if k == 12:
            words = [self.w.noun().capitalize() for _ in range(2)]
            return " ".join(words), True
        return self.sentence(), False

    def sentence(self):
        r, n = self.r, self.w.noun
        s = r.choice(("the %s is in the %s", "please call %s about the %s", "my %s needs a %s", "we moved the %s to %s",
                      "no more %s until the %s is done", "%s and %s are ready", "buy %s and %s", "see you at the %s with %s"))
        return s % (n(), n()) + ("!" if r.random() < 0.15 else "")

    def int_value(self):
        r = self.r
        x = r.random()
        v = r.randint(0, 9) if x < 0.25 else r.randint(10, 99) if x < 0.6 else r.randint(100, 999) if x < 0.85 else r.randint(1000, 99999)
        return -v if r.random() < 0.06 else v

    def float_value(self):
        r = self.r
        return float("%d.%d" % (r.randint(0, 99), r.choice((5, 25, 1, 2, 3, 7, 75, r.randint(1, 99)))))

    def code(self):
        r, w = self.r, self.w
        a, b, f = w.noun(), w.noun(), w.noun()
        n, m = r.randint(0, 99), r.randint(1, 9)
        return r.choice((
            lambda: "def %s(%s):\n    return %s + %d" % (f, a, a, n),
            lambda: "for %s in range(%d):\n    print(%s)" % (a, n, a),
            lambda: "%s = %d\n%s = %s * %d\nprint(%s)" % (a, n, b, a, m, b),
            lambda: "import %s\n\n%s.%s(%d)" % (a, a, f, n),
            lambda: "int %s(int %s)\n{\n    return %s - %d;\n}" % (f, a, a, n),
            lambda: "if %s > %d:\n    %s()\nelse:\n    %s()" % (a, n, f, b),
            lambda: "# %s\n\n- %s\n- %s" % (a.capitalize(), b, f),
            lambda: "SELECT %s FROM %s\nWHERE %s = %d;" % (a, b, f, n),
            lambda: "while True:\n    %s = %s(%d)\n    if %s:\n        break" % (a, f, n, a),
        ))()

    # ---- tools --------------------------------------------------------------------------------------------------
    def phrase_words(self, n):
        return [self.w.noun() for _ in range(n)]

    def param(self, used, allow_code):
        r = self.r
        while True:
            words = self.phrase_words(r.choice((1, 1, 2)))
            if not used & set(words):
                break
        used |= set(words)
        opaque = r.random() < 0.08
        name = self.join_name(words)
        if opaque:
            name = self.w.made(1) + r.choice(("", str(r.randint(1, 9))))
        x = r.random()
        p = {"name": name, "words": " ".join(words), "opaque": opaque}
        if x < 0.42:
            p["kind"] = "string"
        elif x < 0.58:
            p["kind"] = "integer"
        elif x < 0.66:
            p["kind"] = "number"
        elif x < 0.76:
            p["kind"] = "boolean"
        elif x < 0.83:
            p["kind"] = "enum"
            p["enum"] = list(dict.fromkeys(self.w.noun() for _ in range(r.randint(2, 4))))
        elif x < 0.91:
            p["kind"] = "array"
            p["item"] = r.choice(("string", "string", "integer"))
        elif x < 0.97 or not allow_code:
            p["kind"] = "object"
            keys = list(dict.fromkeys(self.w.noun() for _ in range(r.randint(2, 3))))
            p["fields"] = [(k, r.choice(("string", "integer"))) for k in keys]
        else:
            p["kind"] = "code"
        return p

    def schema(self, p):
        r, k = self.r, p["kind"]
        s = {"type": {"enum": "string", "code": "string"}.get(k, k)}
        if k == "enum":
            s["enum"] = p["enum"]
        elif k == "array":
            s["items"] = {"type": p["item"]}
        elif k == "object":
            s["properties"] = {f: {"type": t} for f, t in p["fields"]}
        if p["opaque"] or r.random() < 0.4:
            d = {"code": "The %s, as text"}.get(k, r.choice(("The %s", "the %s", "The %s of it", "%s to use")))
            d = (d % p["words"])
            s["description"] = d[0].upper() + d[1:]
            if r.random() < 0.3:
                s = {"description": s.pop("description"), **s}
        return s

    def tool(self, verb=None, noun=None, used=None, n_param=None, plain=False):
        r = self.r
        used = set() if used is None else used
        verb = verb or r.choice(VERB_NAMES)
        noun = noun or self.phrase_words(r.choice((1, 1, 2)))
        used |= set(noun)
        x = r.random()
        if x < 0.875 * (1 - self.opaque):
            name = self.join_name([verb] + noun)
        elif x < 1 - self.opaque:
            name = self.join_name(noun + [verb])
        else:
            name = self.join_name([self.w.made(2)] + ([self.w.made(1)] if r.random() < 0.4 else []))
        n = n_param if n_param is not None else r.choice((0, 1, 1, 1, 1, 2, 2, 2, 3))
        params, names = [], set()
        while len(params) < n:
            p = self.param(used, not any(q["kind"] == "code" for q in params))
            if p["name"] not in names:
                names.add(p["name"])
                params.append(p)
        for p in params:
            p["required"] = r.random() < 0.8
        d = "%s %s %s" % (r.choice(VERBS[verb][0]), r.choice(("the", "a", "the", "one")), " ".join(noun))
        if r.random() < 0.25:
            d += r.choice((" by %s", " in the %s", " of a %s", " for the %s")) % self.w.noun()
        t = {"name": name, "verb": verb, "noun": " ".join(noun), "params": params, "description": d + ("." if r.random() < 0.7 else "")}
        return t

    def spec(self, t):
        r = self.r
        props = {p["name"]: self.schema(p) for p in t["params"]}
        need = [p["name"] for p in t["params"] if p["required"]]
        par = {"type": "object", "properties": props}
        if need or r.random() < 0.3:
            par["required"] = need
        if r.random() < 0.1:
            par["additionalProperties"] = False
        f = {"name": t["name"], "description": t["description"], "parameters": par}
        if not props and r.random() < 0.3:
            del f["parameters"]
        if r.random() < 0.1:
            f = {"description": t["description"], **{k: v for k, v in f.items() if k != "description"}}
        return {"type": "function", "function": f}

    def value(self, p):
        """Returns (value for the call, words of the user)."""
        r, k = self.r, p["kind"]
        if k == "string":
            v, bare = self.string_value()
            q = r.choice(('"%s"', "'%s'", '"%s"')) if not bare or r.random() < 0.35 else "%s"
            return v, q % v
        if k == "integer":
            v = self.int_value()
            return v, str(v)
        if k == "number":
            v = self.float_value()
            return v, str(v)
        if k == "boolean":
            v = r.random() < 0.5
            return v, r.choice(("on", "true", "yes")) if v else r.choice(("off", "false", "no"))
        if k == "enum":
            v = r.choice(p["enum"])
            return v, v
        if k == "array":
            if p["item"] == "string":
                vs = list(dict.fromkeys(self.w.noun() if r.random() < 0.8 else self.w.made(2).capitalize() for _ in range(r.randint(1, 4))))
            else:
                vs = [self.int_value() for _ in range(r.randint(1, 4))]
            if r.random() < 0.25:
                return vs, json.dumps(vs)
            t = [str(v) for v in vs]
            return vs, t[0] if len(t) == 1 else ", ".join(t[:-1]) + " and " + t[-1]
        if k == "object":
            o = {f: (r.choice((self.w.noun(), self.w.made(2).capitalize())) if t == "string" else abs(self.int_value())) for f, t in p["fields"]}
            if r.random() < 0.25:
                return o, json.dumps(o)
            return o, r.choice((", ", " and ")).join("%s %s" % kv for kv in o.items())
        raise AssertionError(k)

    def request(self, t, with_all=False):
        """A wish that tool t serves: (user words, arguments)."""
        r = self.r
        args, said, code = {}, [], None
        for p in t["params"]:
            if not p["required"] and not with_all and r.random() < 0.45:
                continue
            if p["kind"] == "code":
                code = self.code()
                args[p["name"]] = code
                code_words = p["words"]
                continue
            v, words = self.value(p)
            args[p["name"]] = v
            label = p["words"] if p["opaque"] or r.random() < 0.7 else p["name"]
            multi = p["kind"] in ("object", "array")
            form = r.choice(("{l} {v}", "{l}: {v}", "{l} = {v}", "the {l} is {v}", "{l} set to {v}", "{l} {v}", "{v} as {l}" if not multi else "{l} {v}"))
            said.append(form.format(l=label, v=words))
        if len(said) > 1 and r.random() < 0.5:
            r.shuffle(said)
        verb = r.choice(VERBS[t["verb"]][1])
        art = r.choice(("the ", "the ", "a ", ""))
        head = r.choice(("{v} {a}{n}", "Please {v} {a}{n}", "Can you {v} {a}{n}", "I want to {v} {a}{n}", "{v} {a}{n} for me",
                         "Could you please {v} {a}{n}", "{v} {a}{n}, please", "I need you to {v} {a}{n}"))
        if verb in ("show me", "tell me", "give me"):
            head = r.choice(("{v} {a}{n}", "Please {v} {a}{n}"))
        head = head.format(v=verb, a=art, n=t["noun"])
        head = head[0].upper() + head[1:] if r.random() < 0.85 else head
        question = head.startswith(("Can", "Could"))
        if said:
            style = r.randrange(5)
            if style == 0:
                text = head + " with " + ", ".join(said)
            elif style == 1:
                text = head + ": " + ", ".join(said)
            elif style == 2:
                text = head + ", " + (", ".join(said[:-1]) + " and " + said[-1] if len(said) > 1 and not any(" and " in s for s in said) else ", ".join(said))
            elif style == 3:
                text = head + ":\n" + "\n".join("- " + s for s in said)
                question = False
            else:
                text = head + ". " + ". ".join(s[0].upper() + s[1:] if not s.startswith(("http", "/")) and r.random() < 0.0 else s for s in said)
                question = False
            end = "?" if question else r.choice((".", "", "."))
            text += "" if style == 3 else end
        else:
            text = head + ("?" if question else r.choice((".", "", ".")))
        if code is not None:
            fence = r.random() < 0.5
            text += ("" if text.endswith((".", "?")) else ".") + r.choice((" The %s is:\n", " Use this %s:\n", " %s:\n")) % code_words
            text += "```\n%s\n```" % code if fence else "\n" + code
        return text, args

    def toolbox(self, main, n, few=False):
        """n tools in random order, main among them, some of them alike; few: with few parameters."""
        r = self.r
        out = [main]
        names = {main["name"]}
        while len(out) < n:
            x = r.random()
            used = set(main["noun"].split())
            count = r.choice((0, 0, 1, 1, 2)) if few else None
            if x < 0.3:
                v = r.choice([v for v in VERB_NAMES if not same_sense(v, main["verb"])])
                t = self.tool(verb=v, noun=main["noun"].split(), n_param=count)
            elif x < 0.5:
                t = self.tool(verb=main["verb"], used=used, n_param=count)
            else:
                t = self.tool(used=used, n_param=count)
            key = (t["verb"], t["noun"])
            if t["name"] in names or any(same_sense(t["verb"], o["verb"]) and t["noun"] == o["noun"] for o in out):
                continue
            names.add(t["name"])
            out.append(t)
        r.shuffle(out)
        return out

    # ---- results ------------------------------------------------------------------------------------------------
    def result(self):
        """What a tool returns and what the assistant says about it."""
        r, w = self.r, self.w
        k = r.random()
        if k < 0.12:
            why = r.choice(("%s not found", "no such %s", "%s is locked", "permission denied for %s", "%s timed out")) % w.noun()
            return json.dumps({"error": why}), "That did not work: %s." % why
        if k < 0.3:
            done = r.choice(("ok", "done", '{"status": "ok"}', '{"ok": true}', "success"))
            return done, "Done."
        if k < 0.45:
            text = self.sentence().rstrip("!")
            return text, "The result is: %s." % text
        n = r.choice((1, 1, 2, 3))
        keys = list(dict.fromkeys(w.noun() if r.random() < 0.8 else w.noun() + "_" + w.noun() for _ in range(n)))
        o = {}
        for key in keys:
            o[key] = r.choice((self.int_value, self.int_value, self.float_value, w.noun, lambda: w.made(2).capitalize()))()
        if len(keys) == 1 and r.random() < 0.3:
            v = o[keys[0]]
            return "%s: %s" % (keys[0], v), "The %s is %s." % (keys[0].replace("_", " "), v)
        return json.dumps(o), " ".join("The %s is %s." % (key.replace("_", " "), v) for key, v in o.items())

    def results(self, thinking, n):
        """What n calls return, and the answer."""
        got = [self.result() for _ in range(n)]
        return [{"role": "tool", "content": text} for text, _ in got] + [
            self.answer(thinking, "I have the result and answer with it.", " ".join(said for _, said in got))]

    def tool_thought(self, t, args):
        what = "%s the %s" % (t["verb"], t["noun"])
        s = "The user wants to %s. The function %s does that." % (what, t["name"])
        if args:
            s += " Parameters: %s." % ", ".join(args)
        return s

    @staticmethod
    def call(t, args):
        return {"type": "function", "function": {"name": t["name"], "arguments": args}}

    # ---- skills -------------------------------------------------------------------------------------------------
    def system_text(self):
        r = self.r
        return r.choice(("", "", "", "You are quern-mini.", "You are a helpful assistant.", "Be brief.", "You are a helpful assistant. Be brief."))

    def answer(self, thinking, thought, content="", calls=None):
        m = {"role": "assistant", "content": content}
        if calls:
            m["tool_calls"] = calls
        if thinking:
            m["reasoning_content"] = thought
        return m

    def wish(self, box, thinking, double):
        """A user turn that one or two tools of the box serve, and the calls."""
        r = self.r
        main = r.choice(box)
        text, args = self.request(main)
        calls, tools, thought = [self.call(main, args)], [main], self.tool_thought(main, args)
        has_code = any(p["kind"] == "code" for p in main["params"])
        if double and not has_code:
            others = [t for t in box if t is not main]
            second = r.choice(others) if others and r.random() < 0.5 else main
            if second["params"] or second is not main:
                if not any(p["kind"] == "code" for p in second["params"]):
                    text2, args2 = self.request(second)
                    if second is not main or args2 != args:
                        text = text.rstrip(".?") + r.choice((". Also, ", ". Then ", ". And ", ". After that, ")) + text2[0].lower() + text2[1:]
                        calls.append(self.call(second, args2))
                        tools.append(second)
                        thought = "Two calls are needed. First %s, then %s." % (main["name"], second["name"])
        return text, calls, tools, thought

    def d_tool(self, thinking, small=False):
        r = self.r
        n = r.choice((1, 1, 2)) if small else r.choice((1, 2, 2, 3, 3, 4)[:self.max_tools + 2])
        box = self.toolbox(self.tool(n_param=r.choice((0, 1, 1, 2)) if small else None), n)
        turns = r.choice((1, 1, 2)) if small else r.choice((1, 1, 2, 2, 3))
        msgs, skill = [], "call"
        for turn in range(turns):
            last = turn + 1 == turns
            x = r.random()
            if x < 0.12:
                d = self.no_fit(box, thinking) if r.random() < 0.5 else None
                if d is None:
                    d = self.plain(thinking)["messages"]
                    d = d[1:] if d[0]["role"] == "system" else d
                    if len(d) != 2:
                        continue
                msgs += d
                skill = "no-tool"
                continue
            text, calls, tools, thought = self.wish(box, thinking, not small and r.random() < 0.18)
            msgs += [{"role": "user", "content": text}, self.answer(thinking, thought, calls=calls)]
            skill = "call" if len(calls) == 1 else "calls"
            if turn:
                skill += "-later"
            if not last or r.random() < 0.3:
                msgs += self.results(thinking, len(tools))
                skill = "result"
        if not msgs:
            return self.d_tool(thinking, small)
        if r.random() < 0.3:
            msgs.insert(0, {"role": "system", "content": self.system_text()})
        return {"skill": skill, "tools": [self.spec(t) for t in box], "messages": msgs}

    def no_fit(self, box, thinking):
        while True:
            t = self.tool(n_param=self.r.choice((0, 1)))
            if not any(set(t["noun"].split()) & set(o["noun"].split()) for o in box):
                break
        text, _ = self.request(t)
        what = "%s the %s" % (t["verb"], t["noun"])
        return [{"role": "user", "content": text},
                self.answer(thinking, "The user wants to %s. No function fits." % what, "I have no function to %s." % what)]

    def d_no_tool(self, thinking):
        r = self.r
        box = self.toolbox(self.tool(), r.choice((1, 1, 2, 3)))
        if r.random() < 0.5:
            msgs = self.no_fit(box, thinking)
        else:
            msgs = self.plain(thinking)["messages"]
            msgs = msgs[1:] if msgs[0]["role"] == "system" and "You are" in msgs[0]["content"] else msgs
        return {"skill": "no-tool", "tools": [self.spec(t) for t in box], "messages": msgs}

    def qa(self, skill, q, a, thought, thinking, system=None):
        msgs = [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        if thinking:
            msgs[1]["reasoning_content"] = thought
        if system:
            msgs.insert(0, {"role": "system", "content": system})
        return {"skill": skill, "tools": None, "messages": msgs}

    def d_quern(self, thinking):
        r = self.r
        qs, a = r.choice(QUERN)
        q = r.choice(qs)
        q = r.choice(("%s", "%s", "%s", "Hi! %s", "Tell me: %s", "Please tell me: %s", "One question: %s", "Hello. %s")) % q
        return self.qa("quern", q, a, "A question about quern. I know the answer.", thinking, self.system_text())

    def d_chat(self, thinking):
        r = self.r
        qs, a = r.choice(CHAT)
        if "{name}" in a or "{name}" in qs[0]:
            n = self.person()
            return self.qa("chat", r.choice(qs).format(name=n), a.format(name=n), "The user is %s. I greet back." % n, thinking, self.system_text())
        return self.qa("chat", r.choice(qs), a, "Small talk. I answer briefly.", thinking, self.system_text())

    def d_math(self, thinking):
        r = self.r
        op = r.choice("+++---***")
        if op == "+":
            a, b = r.randint(0, 99), r.randint(0, 99)
            v = a + b
        elif op == "-":
            a, b = r.randint(0, 99), r.randint(0, 99)
            if a < b:
                a, b = b, a
            v = a - b
        else:
            a, b = r.randint(0, 12), r.randint(0, 12)
            v = a * b
        word = {"+": "plus", "-": "minus", "*": "times"}[op]
        x = r.random()
        e = "%d %s %d" % (a, op if x < 0.6 else word, b)
        q = r.choice(("What is %s?", "%s", "%s = ?", "Calculate %s.", "How much is %s?", "Compute %s, please.", "What does %s make?")) % e
        s = {"+": "{a} + {b}", "-": "{a} - {b}", "*": "{a} * {b}"}[op].format(a=a, b=b)
        if op == "+" and (a > 9 or b > 9):
            u = a % 10 + b % 10
            t = "%s. Ones: %d + %d = %d. Tens: %d + %d%s = %d." % (s, a % 10, b % 10, u, a // 10, b // 10, " + 1" if u > 9 else "", v // 10)
        elif op == "-" and a > 9:
            u = a % 10 - b % 10
            if u < 0:
                t = "%s. Ones: %d - %d = %d, borrow 1. Tens: %d - 1 - %d = %d." % (s, a % 10 + 10, b % 10, u + 10, a // 10, b // 10, v // 10)
            else:
                t = "%s. Ones: %d - %d = %d. Tens: %d - %d = %d." % (s, a % 10, b % 10, u, a // 10, b // 10, v // 10)
        else:
            t = "%s = %d." % (s, v)
        return self.qa("math", q, "%s = %d" % (s, v), t, thinking, self.system_text())

    def d_read(self, thinking):
        r, w = self.r, self.w
        n = r.randint(2, 4)
        kind = r.randrange(5)
        rows, used = [], set()
        while len(rows) < n:
            s = w.noun() if kind != 1 else r.choice(FIRST) if r.random() < 0.5 else w.made(2).capitalize()
            if s in used:
                continue
            used.add(s)
            rows.append(s)
        facts, asks = [], []
        for s in rows:
            if kind == 0:
                c, loc = r.choice(COLORS), w.noun()
                facts.append("The %s is %s." % (s, c))
                asks.append((r.choice(("What color is the %s?", "Which color has the %s?")) % s, "The %s is %s." % (s, c)))
            elif kind == 1:
                p = r.choice(PLACES) if r.random() < 0.5 else w.made(2).capitalize()
                facts.append("%s lives in %s." % (s, p))
                asks.append((r.choice(("Where does %s live?", "In which city does %s live?")) % s, "%s lives in %s." % (s, p)))
            elif kind == 2:
                v = abs(self.int_value())
                facts.append("The %s costs %d dollars." % (s, v))
                asks.append((r.choice(("What does the %s cost?", "How much is the %s?")) % s, "The %s costs %d dollars." % (s, v)))
            elif kind == 3:
                v = w.noun()
                facts.append("The %s is in the %s." % (s, v))
                asks.append((r.choice(("Where is the %s?", "Where can I find the %s?")) % s, "The %s is in the %s." % (s, v)))
            else:
                v = abs(self.int_value())
                facts.append("The code of the %s is %d." % (s, v))
                asks.append((r.choice(("What is the code of the %s?", "Which code has the %s?")) % s, "The code of the %s is %d." % (s, v)))
        q, a = r.choice(asks)
        text = " ".join(facts)
        thought = "The text says: %s" % a
        if r.random() < 0.12:
            other = w.noun() if kind != 1 else w.made(3).capitalize()
            if other not in used:
                q = {0: "What color is the %s?", 1: "Where does %s live?", 2: "What does the %s cost?", 3: "Where is the %s?", 4: "What is the code of the %s?"}[kind] % other
                a, thought = "The text does not say.", "The text does not mention %s." % other
        x = r.random()
        if x < 0.3:
            return self.qa("read", q, a, thought, thinking, text)
        sep = r.choice((" ", "\n", "\n\n"))
        u = text + sep + q if r.random() < 0.7 else q + sep + text
        return self.qa("read", u, a, thought, thinking, self.system_text())

    def d_json(self, thinking):
        r, w = self.r, self.w
        n = r.randint(1, 3)
        keys = list(dict.fromkeys(w.noun() for _ in range(n)))
        o, said = {}, []
        for k in keys:
            x = r.random()
            if x < 0.45:
                v = r.choice((w.noun, lambda: w.made(2).capitalize(), lambda: r.choice(PLACES), self.person))()
                o[k] = v
                said.append("%s %s" % (k, v))
            elif x < 0.75:
                v = self.int_value()
                o[k] = v
                said.append("%s %d" % (k, v))
            elif x < 0.87:
                v = r.random() < 0.5
                o[k] = v
                said.append("%s %s" % (k, "true" if v else "false"))
            else:
                vs = [w.noun() for _ in range(2)]
                o[k] = vs
                said.append("%s %s and %s" % (k, vs[0], vs[1]))
        q = r.choice(("Give me JSON with %s.", "Answer in JSON: %s.", "Write a JSON object with %s.", "Return only JSON with %s.",
                      "Make a JSON object: %s", "As JSON, please: %s.")) % ", ".join(said)
        return self.qa("json", q, json.dumps(o), "The keys are %s." % ", ".join(keys), thinking, self.system_text())

    def d_text(self, thinking):
        r, w = self.r, self.w
        k = r.randrange(5)
        words = list(dict.fromkeys(w.noun() for _ in range(r.randint(3, 5))))
        if k == 0:
            s = " ".join(words)
            return self.qa("text", r.choice(("Repeat: %s", "Say this again: %s", "Repeat after me: %s")) % s, s, "I repeat the words.", thinking)
        if k == 1:
            s = ", ".join(words)
            i = r.choice((0, -1))
            q = "What is the %s word of this list: %s?" % ("first" if i == 0 else "last", s)
            return self.qa("text", q, words[i], "The %s word is %s." % ("first" if i == 0 else "last", words[i]), thinking)
        if k == 2:
            words = words[:4]
            q = r.choice(("How many words are in this list: %s?", "Count these words: %s")) % ", ".join(words)
            return self.qa("text", q, str(len(words)), "The words are %s. That makes %d." % (", ".join("%d %s" % (i + 1, x) for i, x in enumerate(words)), len(words)), thinking)
        if k == 3:
            s = words[0]
            return self.qa("text", r.choice(("Write %s with a capital letter.", "Capitalize the word %s.")) % s, s.capitalize(), "The word is %s." % s, thinking)
        q = r.choice(("Make a list of %s.", "Write these as a list: %s.")) % ", ".join(words)
        return self.qa("text", q, "\n".join("- " + x for x in words), "There are %d entries." % len(words), thinking)

    def d_copy(self, thinking):
        """Dense practice in copying: repeat, look up, name the next."""
        r, w = self.r, self.w
        def thing():
            x = r.random()
            if x < 0.4:
                return w.noun()
            if x < 0.6:
                return self.join_name(self.phrase_words(r.choice((1, 2, 2, 3))))
            return str(self.int_value()) if x < 0.75 else self.string_value()[0]
        k = r.randrange(3)
        if k == 0:
            s = r.choice((" ", ", ", "\n")).join(thing() for _ in range(r.randint(4, 14)))
            return self.qa("text", r.choice(("Repeat: %s", "Say this again: %s", "Repeat after me: %s", "Repeat this text: %s")) % s, s, "I repeat the words.", thinking)
        keys = list(dict.fromkeys(thing() for _ in range(r.randint(3, 8))))
        if k == 1:
            pairs = [(key, thing()) for key in keys]
            text = r.choice((", ", "\n", ". ")).join(r.choice(("%s: %s",)) % p for p in pairs)
            key, value = r.choice(pairs)
            return self.qa("read", "%s\n\nWhat is %s?" % (text, key), value, "The text says: %s: %s" % (key, value), thinking)
        i = r.randrange(len(keys) - 1)
        sep = r.choice((" ", ", ", "\n"))
        return self.qa("text", "%s\n\nWhat follows %s?" % (sep.join(keys), keys[i]), keys[i + 1], "After %s comes %s." % (keys[i], keys[i + 1]), thinking)

    # ---- dense practice: training only, the held-out figures never use these ------------------------------------
    def d_drill(self, thinking):
        """One list of tools, some alike, and many wishes: calls, two calls, no function that fits, questions beside the point.
        In half of them earlier answers stand as a later turn shows them, without their thinking."""
        r = self.r
        n = r.choice((2, 2, 3, 3, 4, 5))
        box = self.toolbox(self.tool(n_param=r.choice((0, 1, 1, 2))), n, few=True)
        every = r.random() < 0.5
        msgs = []
        for _ in range(r.choice((3, 4, 5, 6, 7))):
            x = r.random()
            if x < 0.2:
                msgs += self.no_fit(box, thinking)
                continue
            if x < 0.27:
                d = self.plain(thinking)["messages"]
                msgs += [m for m in d if m["role"] != "system"] if len(d) == 2 or not d[0]["content"] else []
                continue
            text, calls, tools, thought = self.wish(box, thinking, r.random() < 0.22)
            msgs += [{"role": "user", "content": text}, self.answer(thinking, thought, calls=calls)]
            if r.random() < (0.12 if every else 0.4):
                msgs += self.results(thinking, len(tools))
        if not msgs:
            return self.d_drill(thinking)
        return {"skill": "drill", "tools": [self.spec(t) for t in box], "messages": msgs, "every": every}

    def d_many(self, thinking, f):
        msgs = []
        for _ in range(self.r.randint(5, 10) if f == self.d_math else self.r.choice((2, 3, 4))):
            d = f(thinking)["messages"]
            msgs += d[1:] if d[0]["role"] == "system" and (msgs or not d[0]["content"]) else d
        return {"skill": "many", "tools": None, "messages": msgs, "every": True}

    def drill(self):
        r = self.r
        thinking = r.random() < 0.4
        x = r.random()
        if x < 0.78:
            d = self.d_drill(thinking)
        elif x < 0.87:
            d = self.d_many(thinking, self.d_math)
        else:
            d = self.d_many(thinking, r.choice((self.d_text, self.d_text, self.d_json, self.d_read)))
        d["thinking"] = thinking
        return d

    def plain(self, thinking):
        f = self.r.choices((self.d_quern, self.d_chat, self.d_math, self.d_read, self.d_json, self.d_text), (16, 6, 26, 26, 16, 10))[0]
        return f(thinking)

    def dialogue(self, easy=0.0):
        r = self.r
        thinking = r.random() < 0.4
        x = r.random()
        if easy and r.random() < 0.5:
            d = self.d_copy(thinking and r.random() < 0.3)
            thinking = "reasoning_content" in d["messages"][-1]
        elif x < 0.52:
            d = self.d_tool(thinking, small=r.random() < max(easy, 0.2))
        elif x < 0.58:
            d = self.d_known(thinking)
        elif x < 0.64:
            d = self.d_no_tool(thinking)
        else:
            d = self.plain(thinking)
            if r.random() < 0.12:  # a second question in the same conversation
                e = self.plain(thinking)
                if e["messages"][0]["role"] != "system" and d["messages"][0].get("content") is not None:
                    d["messages"] += e["messages"]
                    d["skill"] = e["skill"]
        d["thinking"] = thinking
        d["messages"] = [m for m in d["messages"] if not (m["role"] == "system" and not m["content"])]
        return d

    # ---- tools that people really have --------------------------------------------------------------------------
    def d_known(self, thinking):
        r, w = self.r, self.w
        def pick():
            return r.choice(KNOWN)
        main = pick()
        box = [main]
        while len(box) < r.choice((1, 2, 3)):
            o = pick()
            if o[0] != main[0] and all(o[0] != b[0] for b in box):
                box.append(o)
        r.shuffle(box)
        vals = {"city": lambda: r.choice(PLACES) if r.random() < .4 else w.made(2).capitalize(), "path": lambda: self._path(), "query": lambda: " ".join(self.phrase_words(2)),
                "command": lambda: r.choice(("ls %s", "ls -la %s", "cat %s", "make %s", "git %s", "grep -n %s", "python %s", "rm %s", "mkdir %s")) % w.noun(), "text": self.sentence, "person": self.person,
                "n": lambda: r.randint(1, 90), "expr": lambda: "%d %s %d" % (r.randint(1, 999), r.choice("+-*/"), r.randint(1, 999)),
                "lang": lambda: r.choice("German French Spanish Italian Polish Dutch Greek Turkish".split()), "date": lambda: "20%s-%02d-%02d" % (self.digits(2), r.randint(1, 12), r.randint(1, 28)),
                "item": lambda: " ".join(self.phrase_words(r.choice((1, 2)))), "mail": lambda: "%s@%s.%s" % (w.noun(), w.noun(), r.choice(DOMAINS)), "code": self.code}
        names, desc, params, asks, what = main
        got = {p: vals[k]() for p, k in params}
        q = r.choice(asks).format(**got)
        name = r.choice(names)
        tools = []
        for b in box:
            nm = name if b is main else r.choice(b[0])
            tools.append({"type": "function", "function": {"name": nm, "description": b[1], "parameters": {"type": "object", "properties": {
                p: {"type": "integer" if k == "n" else "string"} for p, k in b[2]}, "required": [p for p, _ in b[2]]}}})
        a = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": got}}]}
        if thinking:
            a["reasoning_content"] = "The user wants to %s. The function %s does that.%s" % (what, name, " Parameters: %s." % ", ".join(got) if got else "")
        msgs = [{"role": "user", "content": q}, a]
        if r.random() < 0.35:
            text, said = self.result()
            msgs.append({"role": "tool", "content": text})
            b = {"role": "assistant", "content": said}
            if thinking:
                b["reasoning_content"] = "I have the result and answer with it."
            msgs.append(b)
        return {"skill": "known", "tools": tools, "messages": msgs}

    def _path(self):
        r = self.r
        return r.choice(("", "/", "./", "src/")) + "/".join(self.w.noun() for _ in range(r.randint(1, 2))) + "." + r.choice(EXTENSIONS)


def same_sense(a, b):
    groups = (("get", "find", "check", "read", "open"), ("create", "add", "book"), ("update", "convert"), ("send",), ("save", "write"),
              ("start", "play"), ("stop", "close"))
    return a == b or any(a in g and b in g for g in groups)


KNOWN = [
    (("get_weather", "weather", "current_weather"), "Get the weather for a city.", [("city", "city")],
     ["What is the weather in {city}?", "How is the weather in {city}?", "Is it raining in {city}?", "weather in {city}", "What's the weather like in {city}?", "Will it be warm in {city} today?"], "know the weather"),
    (("get_weather", "weather_lookup"), "Get the weather for a place.", [("location", "city")],
     ["What is the weather in {location}?", "How is the weather in {location}?", "weather in {location}", "What's the weather like in {location}?"], "know the weather"),
    (("read_file", "read", "view_file"), "Read a file.", [("path", "path")],
     ["Read {path}.", "Show me {path}", "What is in {path}?", "Open {path} please.", "Please read the file {path}."], "read a file"),
    (("write_file", "write", "save_file"), "Write text to a file.", [("path", "path"), ("content", "text")],
     ['Write "{content}" to {path}.', 'Put "{content}" into the file {path}.', 'Save "{content}" in {path}.'], "write a file"),
    (("write_file", "create_file"), "Write a file.", [("path", "path"), ("content", "code")],
     ["Write this to {path}:\n```\n{content}\n```", "Create {path} with this content:\n```\n{content}\n```", "Save this as {path}:\n\n{content}"], "write a file"),
    (("run_command", "bash", "shell", "execute"), "Run a shell command.", [("command", "command")],
     ["Run `{command}`.", "Please run {command}", "Execute the command {command}", "run `{command}` for me"], "run a command"),
    (("search_web", "web_search", "search"), "Search the web.", [("query", "query")],
     ["Search the web for {query}.", "Look up {query} on the web.", "search for {query}", 'Google "{query}" for me.'], "search the web"),
    (("send_email", "send_mail"), "Send an email.", [("to", "mail"), ("subject", "item"), ("body", "text")],
     ['Send an email to {to} with subject "{subject}" and body "{body}".', 'Email {to}, subject "{subject}": "{body}"'], "send an email"),
    (("set_timer", "start_timer"), "Set a timer in minutes.", [("minutes", "n")],
     ["Set a timer for {minutes} minutes.", "Start a {minutes} minute timer.", "Timer, {minutes} minutes please."], "set a timer"),
    (("calculate", "calculator"), "Evaluate an expression.", [("expression", "expr")],
     ["Calculate {expression}.", "What is {expression}?", "Use the calculator for {expression}."], "calculate"),
    (("translate", "translate_text"), "Translate a text.", [("text", "text"), ("language", "lang")],
     ['Translate "{text}" to {language}.', 'What is "{text}" in {language}?', 'Say "{text}" in {language}.'], "translate a text"),
    (("create_event", "add_event"), "Create a calendar event.", [("title", "item"), ("date", "date")],
     ['Create an event "{title}" on {date}.', 'Add "{title}" to my calendar on {date}.'], "create an event"),
    (("add_todo", "add_task"), "Add an entry to the todo list.", [("title", "item")],
     ['Add "{title}" to my todo list.', "Put {title} on the todo list.", "Remind me to buy {title}."], "add an entry"),
    (("get_time", "current_time"), "Get the time in a city.", [("city", "city")],
     ["What time is it in {city}?", "Tell me the time in {city}.", "time in {city}"], "know the time"),
    (("list_files", "ls"), "List the files of a directory.", [("directory", "item")],
     ["List the files in {directory}.", "What files are in the directory {directory}?", "Show the files of {directory}."], "list files"),
    (("call_person", "phone"), "Call a person.", [("name", "person")],
     ["Call {name}.", "Phone {name} please.", "Give {name} a call."], "call a person"),
]

QUERN = [
    (["What is quern?", "Tell me about quern.", "What does quern do?", "Explain quern.", "What is quern for?"],
     "quern is a native server for the Qwen3.5 family of language models, written in C11."),
    (["Who are you?", "What are you?", "What is your name?", "Which model are you?", "Introduce yourself."],
     "I am quern-mini, the small model that ships with quern."),
    (["In which language is quern written?", "What is quern written in?", "Which programming language does quern use?", "Is quern written in Python?"],
     "quern is written in C11, with CUDA for the GPU kernels."),
    (["Which models does quern serve?", "What models can quern run?", "Which models are supported?", "Which models does quern support?"],
     "quern serves the Qwen3.5 family: dense and mixture of experts models."),
    (["Which license does quern have?", "What is the license of quern?", "How is quern licensed?", "Is quern free software?"],
     "quern is free software under the Apache License 2.0."),
    (["Which APIs does quern offer?", "What API does quern speak?", "Which API can I use with quern?", "Is quern compatible with OpenAI clients?"],
     "quern speaks the OpenAI and Anthropic APIs over HTTP."),
    (["How do I start quern?", "How do I run quern?", "How can I start the server?", "How do I serve a model?", "Which command starts quern?"],
     "Run quern serve with the path of a model."),
    (["Does quern need a GPU?", "Can quern run on a CPU?", "Do I need a GPU?", "Does quern work without a GPU?"],
     "No GPU is needed: quern runs on a CPU, and faster on a GPU."),
    (["What is speculative decoding?", "What is speculation?", "How does speculation work in quern?", "Explain speculative decoding."],
     "A small head drafts several tokens and the model checks them in one step. The tokens stay the same."),
    (["Does speculation change the answer?", "Are the tokens the same with speculation?", "Does speculative decoding change the output?"],
     "No. quern gives the same tokens with and without speculation."),
    (["What is a prefix cache?", "What does the prefix cache do?", "Why is the next turn fast?", "How does quern reuse a prompt?"],
     "The prefix cache keeps the state of earlier prompts, so only new tokens are computed."),
    (["Which weight formats does quern load?", "Which quantized formats are supported?", "What formats can quern read?", "Can quern load FP8 models?"],
     "quern loads BF16, FP8, NVFP4, AWQ, GPTQ and other int4 weights as published."),
    (["Does quern support tool calls?", "Can quern call tools?", "Can you call tools?", "Do you support tools?"],
     "Yes. Describe the tools in the request and I answer with a call."),
    (["How big are you?", "How many parameters do you have?", "How large is quern-mini?", "What is your size?"],
     "I am tiny: about six million parameters."),
    (["What can you do?", "What are you good at?", "How can you help me?", "What are your skills?"],
     "I can call tools, read facts from a text, do small sums and write JSON."),
    (["What does the name quern mean?", "What is a quern?", "Why is it called quern?", "Where does the name come from?"],
     "A quern is a small hand mill for grinding grain."),
    (["What is an MTP head?", "What does MTP mean?", "What is multi-token prediction?"],
     "MTP means multi-token prediction: a small extra layer guesses the token after the next."),
    (["What is a mixture of experts?", "What does MoE mean?", "How do experts work?"],
     "In a mixture of experts each token uses only a few of many small networks."),
    (["What is Gated DeltaNet?", "What is linear attention?", "How does the linear attention work?"],
     "It is an attention layer with a fixed-size state, so its cost does not grow with the text."),
    (["Does quern stream answers?", "Can quern stream?", "Does quern support streaming?"],
     "Yes, quern streams answers as server-sent events."),
    (["On which systems does quern run?", "What does quern need?", "What are the requirements of quern?"],
     "quern runs on Linux and needs only packages of Debian 12."),
    (["How many processes does quern use?", "Is quern one binary?", "How is quern built?"],
     "quern is one binary and one process."),
]

CHAT = [
    (["Hello", "Hi", "Hello!", "Hi there", "Hey", "Good morning", "Good evening!", "hello", "hi"], "Hello! How can I help you?"),
    (["Thanks", "Thank you", "Thank you!", "thanks a lot", "Many thanks."], "You are welcome."),
    (["Bye", "Goodbye", "See you", "Good night", "bye bye"], "Goodbye!"),
    (["How are you?", "How do you do?", "Are you well?", "How is it going?"], "I am fine, thank you. How can I help you?"),
    (["My name is {name}.", "I am {name}.", "Hi, I am {name}.", "Hello, my name is {name}."], "Hello {name}! How can I help you?"),
    (["Are you a human?", "Are you a robot?", "Are you a person?", "Are you real?"], "I am a small language model, not a person."),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh."], "Why did the token cross the road? It was the next one."),
    (["Who won the world cup?", "What is the news today?", "What will the weather be tomorrow?", "Who is the president?"],
     "I do not know. I only know a little about quern and what you tell me."),
    (["Can you help me?", "I need help.", "Help!", "Help me please"], "Of course. What do you need?"),
]


def render_value(v):
    if isinstance(v, (dict, list)):
        return json.dumps(v, ensure_ascii=False)
    return str(v)


def render(d):
    """The chat template in Python: list of (text, weight) with weight 1 where the model must learn to speak.
    With "every" each answer keeps its thinking block, as if it were the last one."""
    out, buf = [], []
    msgs, tools = d["messages"], d["tools"]
    sys_text = msgs[0]["content"].strip() if msgs[0]["role"] == "system" else ""
    if tools:
        s = "<|im_start|>system\n# Tools\n\nYou may call these functions:\n\n<tools>"
        for t in tools:
            s += "\n" + json.dumps(t, ensure_ascii=False)
        s += ("\n</tools>\n\nWrite a call in this form:\n\n<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n"
              "</tool_call>\n\nGive every required parameter. If no function fits, answer plainly.")
        if sys_text:
            s += "\n\n" + sys_text
        buf.append(s + "<|im_end|>\n")
    elif msgs[0]["role"] == "system":
        buf.append("<|im_start|>system\n" + sys_text + "<|im_end|>\n")
    last = max(i for i, m in enumerate(msgs) if m["role"] == "user")
    for i, m in enumerate(msgs):
        if m["role"] == "user":
            buf.append("<|im_start|>user\n" + m["content"].strip() + "<|im_end|>\n")
        elif m["role"] == "assistant":
            body = m["content"].strip()
            for j, c in enumerate(m.get("tool_calls") or []):
                f = c["function"]
                body += ("\n" if j else "\n\n" if body else "") + "<tool_call>\n<function=" + f["name"] + ">\n"
                for k, v in f["arguments"].items():
                    body += "<parameter=" + k + ">\n" + render_value(v) + "\n</parameter>\n"
                body += "</function>\n</tool_call>"
            buf.append("<|im_start|>assistant\n")
            if i > last or d.get("every"):
                thought = m.get("reasoning_content", "").strip()
                if thought:
                    buf.append("<think>\n")
                    body = thought + "\n</think>\n\n" + body
                else:
                    buf.append("<think>\n\n</think>\n\n")
                out += [("".join(buf), 0), (body + "<|im_end|>", 1)]
                buf = ["\n"]
            else:
                out += [("".join(buf), 0), (body + "<|im_end|>", 1)]
                buf = ["\n"]
        elif m["role"] == "tool":
            if msgs[i - 1]["role"] != "tool":
                buf.append("<|im_start|>user")
            buf.append("\n<tool_response>\n" + m["content"].strip() + "\n</tool_response>")
            if i + 1 == len(msgs) or msgs[i + 1]["role"] != "tool":
                buf.append("<|im_end|>\n")
    if buf != ["\n"]:
        out.append(("".join(buf), 0))
    return out


if __name__ == "__main__":
    import argparse
    ap = argparse.ArgumentParser(description="print generated dialogues as JSON lines")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--count", type=int, default=10)
    ap.add_argument("--held", action="store_true", help="use the held-out words")
    ap.add_argument("--text", action="store_true", help="print the rendered text")
    a = ap.parse_args()
    g = Generator(a.seed, a.held)
    for _ in range(a.count):
        d = g.dialogue()
        print("".join(t for t, _ in render(d)) if a.text else json.dumps(d))
