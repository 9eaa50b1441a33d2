# Tools that people really have, in many forms, and what they ask for in their own words. Training only.
# SPDX-License-Identifier: Apache-2.0
"""everyday(generator, thinking) makes a dialogue. A tool: names, descriptions, parameters it is asked with (names, kind), parameters that may stand
beside them and are seldom named (name, schema, words with a value), what it is for, and questions. Kinds are values of `Values`."""

from generate import COLORS, DOMAINS, FIRST, PLACES

UNITS = {"type": "string", "enum": ["celsius", "fahrenheit"]}
VIA = {"type": "string", "enum": ["mail", "sms", "push"]}
PRIORITY = {"type": "string", "enum": ["low", "normal", "high"]}
NUMBER, FLAG, TEXT, LIST = {"type": "integer"}, {"type": "boolean"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}

TOOLS = [
    (("get_weather", "weather", "getWeather", "current_weather", "weather_lookup", "fetch_weather", "get_current_weather"),
     ("Get the weather {of} a {place}", "Get the current weather {of} a given {place}", "Returns the weather {of} a {place}", "Look up the weather", "Weather of a {place}",
      "Current weather and temperature"),
     ((("city", "location", "place", "town"), "city"),), (("unit", UNITS, "in {v}"), ("units", UNITS, "in {v}"), ("days", NUMBER, "for {v} days"), ("details", FLAG, None)), "get the weather",
     ("What is the weather in {0}?", "What's the weather in {0}?", "How is the weather in {0}?", "weather in {0}", "What is the weather like in {0}?", "Tell me the weather in {0}.",
      "Is it raining in {0}?", "Will it be warm in {0}?", "Get the weather of {0}.", "Get the weather for {0}", "How cold is it in {0}?", "Do I need an umbrella in {0}?",
      "What's the temperature in {0}?", "I want to know the weather in {0}.", "Please check the weather in {0}.")),
    (("get_time", "current_time", "time", "getTime", "clock"), ("Get the time {of} a {place}", "Current local time of a {place}", "Returns the time", "Tell the time"),
     ((("city", "place", "location", "timezone"), "city"),), (("format", {"type": "string", "enum": ["12h", "24h"]}, None),), "get the time",
     ("What time is it in {0}?", "Tell me the time in {0}.", "time in {0}", "How late is it in {0}?", "What's the time in {0}?", "Get the time in {0}")),
    (("send_message", "message", "sendMessage", "send_text", "notify", "text_person"), ("Send a message to a person", "Send a message", "Sends a text message to somebody", "Write to a contact", "Message a person"),
     ((("to", "recipient", "person", "name", "contact"), "person"), (("text", "message", "body", "content"), "text")),
     (("urgent", FLAG, None), ("via", VIA, "by {v}"), ("priority", PRIORITY, "with priority {v}"), ("options", {"type": "object", "properties": {"retries": NUMBER}}, None)), "send the message",
     ("Send a message to {0}: {1}", "Tell {0} that {1}.", 'Send "{1}" to {0}.', "Text {0}: {1}", "Message {0}: {1}", "Write to {0}: {1}", "Let {0} know that {1}.", 'Send {0} the message "{1}".',
      "Please send a message to {0} with the text {1}", "Send a message to {0} with text {1}", "send {0} a message saying {1}")),
    (("send_email", "send_mail", "sendEmail", "email", "mail"), ("Send an email", "Send an e-mail to an address", "Sends mail", "Compose and send an email"),
     ((("to", "recipient", "address"), "mail"), (("subject", "title"), "item"), (("body", "text", "content"), "text")), (("cc", TEXT, None), ("urgent", FLAG, None), ("attachments", LIST, None)), "send an email",
     ('Send an email to {0} with subject "{1}" and body "{2}".', 'Email {0}, subject "{1}": "{2}"', "Send an email to {0} about {1}: {2}", 'Write {0} an email. Subject: {1}. Body: {2}')),
    (("read_file", "read", "view_file", "Read", "readFile", "open_file", "cat", "view"), ("Read a file", "Reads a file from disk", "Show the content of a file", "Read the file at a path", "Returns the content of a file"),
     ((("path", "file_path", "file", "filename", "filePath"), "path"),), (("offset", NUMBER, "from line {v}"), ("limit", NUMBER, None), ("encoding", TEXT, None)), "read the file",
     ("Read {0}.", "Show me {0}", "What is in {0}?", "Open {0} please.", "Please read the file {0}.", "Look at {0}", "What does {0} say?", "cat {0}", "Can you read {0}?", "Show the file {0}.", "Have a look into {0}.")),
    (("write_file", "write", "Write", "save_file", "create_file", "writeFile"), ("Write a file", "Write text to a file", "Create or replace a file", "Writes content to a path"),
     ((("path", "file_path", "file", "filename", "filePath"), "path"), (("content", "text", "data"), "body")), (("append", FLAG, None), ("mode", TEXT, None)), "write the file",
     ('Write "{1}" to {0}.', 'Put "{1}" into the file {0}.', 'Save "{1}" in {0}.', "Write this to {0}:\n```\n{1}\n```", "Create {0} with this content:\n```\n{1}\n```", "Create the file {0}:\n{1}", "Save this as {0}:\n\n{1}")),
    (("edit_file", "edit", "Edit", "replace_in_file", "str_replace"), ("Replace text in a file", "Edit a file", "Replaces a string in a file by another"),
     ((("path", "file_path", "file"), "path"), (("old", "old_string", "find", "old_str"), "word"), (("new", "new_string", "replace", "new_str"), "word")), (("all", FLAG, "everywhere"), ("replace_all", FLAG, None)), "edit the file",
     ("Replace {1} by {2} in {0}.", "In {0}, change {1} to {2}.", 'Change "{1}" to "{2}" in {0}', "Rename {1} to {2} in {0}.", "Edit {0}: {1} should be {2}.")),
    (("run_command", "bash", "shell", "execute", "Bash", "run", "terminal", "run_shell"), ("Run a shell command", "Execute a command", "Runs a command in the shell", "Run a command and return its output"),
     ((("command", "cmd", "script"), "command"),), (("timeout", NUMBER, None), ("cwd", TEXT, None), ("background", FLAG, None)), "run the command",
     ("Run `{0}`.", "Please run {0}", "Execute the command {0}", "run `{0}` for me", "Run the command {0}", "What does `{0}` print?", "Can you run {0}?")),
    (("list_files", "ls", "list_directory", "LS", "listFiles", "dir"), ("List the files of a directory", "List a directory", "Lists files and folders", "Show what is in a folder"),
     ((("path", "directory", "dir", "folder"), "folder"),), (("recursive", FLAG, "recursively"), ("hidden", FLAG, None), ("depth", NUMBER, None)), "list the files",
     ("List the files in {0}.", "What files are in {0}?", "Show the files of {0}.", "What is in the directory {0}?", "ls {0}", "List {0}", "Which files are in the folder {0}?")),
    (("search_files", "grep", "Grep", "find_text", "search_code", "searchFiles"), ("Search files for text", "Find a pattern in the files", "Search the code", "Searches for a regular expression"),
     ((("pattern", "query", "text", "regex"), "word"), (("path", "directory", "dir", "folder"), "folder")), (("ignore_case", FLAG, None), ("limit", NUMBER, None)), "search the files",
     ("Search for {0} in {1}.", "Find {0} in {1}", "Where is {0} used in {1}?", "grep for {0} in {1}", "Look for {0} in the folder {1}.", "Which files in {1} contain {0}?")),
    (("search_web", "web_search", "search", "google", "WebSearch", "webSearch"), ("Search the web", "Search the internet", "Web search", "Find pages on the web"),
     ((("query", "q", "text", "terms"), "query"),), (("limit", NUMBER, None), ("language", TEXT, None)), "search the web",
     ("Search the web for {0}.", "Look up {0} on the web.", "search for {0}", 'Google "{0}" for me.', "Find pages about {0}.", "What does the internet say about {0}?", "Search {0}")),
    (("fetch", "get_page", "open_url", "WebFetch", "fetch_url", "browse"), ("Fetch a page", "Get a web page", "Opens a URL and returns its text", "Download a page"),
     ((("url", "link", "address", "page"), "url"),), (("timeout", NUMBER, None), ("format", {"type": "string", "enum": ["text", "markdown", "html"]}, "as {v}")), "fetch the page",
     ("Fetch {0}.", "Open {0}", "What is on {0}?", "Read the page {0}.", "Get {0} for me.", "Load {0} please.")),
    (("set_timer", "start_timer", "timer", "setTimer"), ("Set a timer", "Set a timer in minutes", "Start a timer"), ((("minutes", "duration", "time"), "n"),), (("label", TEXT, None), ("sound", FLAG, None)), "set the timer",
     ("Set a timer for {0} minutes.", "Start a {0} minute timer.", "Timer, {0} minutes please.", "Wake me in {0} minutes.", "Count down {0} minutes")),
    (("set_reminder", "remind", "add_reminder", "createReminder"), ("Set a reminder", "Remind the user of something", "Create a reminder"), ((("text", "title", "what"), "doing"), (("time", "when", "at"), "time")),
     (("repeat", FLAG, "every day"), ("priority", PRIORITY, None)), "set the reminder",
     ("Remind me at {1} to {0}.", "Set a reminder to {0} at {1}.", "At {1} remind me to {0}", "Remind me to {0} at {1}.", "I must not forget to {0} at {1}, remind me.")),
    (("calculate", "calculator", "eval", "math", "compute"), ("Evaluate an expression", "Calculate", "A calculator", "Compute the value of an expression"), ((("expression", "expr", "formula", "input"), "expr"),),
     (("precision", NUMBER, None),), "calculate", ("Calculate {0}.", "What is {0}?", "Use the calculator for {0}.", "How much is {0}?", "Compute {0}", "{0}")),
    (("translate", "translate_text", "translation"), ("Translate a text", "Translate text to a language", "Translates into another language"), ((("text", "input", "content"), "text"), (("language", "to", "target", "target_language"), "lang")),
     (("formal", FLAG, None),), "translate the text", ('Translate "{0}" to {1}.', 'What is "{0}" in {1}?', 'Say "{0}" in {1}.', "Translate to {1}: {0}", "How do you say {0} in {1}?", 'Put "{0}" into {1}')),
    (("create_event", "add_event", "calendar_add", "schedule_meeting", "createEvent"), ("Create a calendar event", "Add an event to the calendar", "Schedule a meeting"), ((("title", "name", "subject"), "item"), (("date", "day", "on"), "date")),
     (("attendees", LIST, None), ("duration", NUMBER, None), ("location", TEXT, None)), "create the event",
     ('Create an event "{0}" on {1}.', 'Add "{0}" to my calendar on {1}.', "Schedule {0} for {1}.", "Put {0} into the calendar for {1}", "On {1} there is {0}, add it.")),
    (("add_todo", "add_task", "create_task", "todo", "TodoWrite"), ("Add an entry to the todo list", "Create a task", "Add something to do"), ((("title", "text", "task", "item"), "doing"),), (("due", TEXT, None), ("priority", PRIORITY, "with priority {v}")), "add the entry",
     ("Add {0} to my todo list.", "Put {0} on the todo list.", "I have to {0}, note it down.", "New task: {0}", "Add a task: {0}", 'Add "{0}" to the list.')),
    (("call_person", "phone", "call", "dial"), ("Call a person", "Phone somebody", "Start a call"), ((("name", "person", "contact", "to"), "person"),), (("video", FLAG, "with video"),), "call the person",
     ("Call {0}.", "Phone {0} please.", "Give {0} a call.", "I want to talk to {0}.", "Ring {0}", "Please call {0}")),
    (("play_music", "play", "play_song", "playMusic"), ("Play music", "Play a song", "Plays a song or an album"), ((("title", "song", "query", "track"), "item"),), (("artist", TEXT, None), ("volume", NUMBER, None), ("shuffle", FLAG, None)), "play the song",
     ("Play {0}.", "Put on {0}", "I want to hear {0}.", "Play the song {0} please.", "Can you play {0}?", "Some {0}, please")),
    (("set_light", "light", "turn_light", "switch_light", "lights"), ("Switch a light", "Turn a light on or off", "Control the light of a room"), ((("room", "place", "location", "name"), "room"), (("on", "state", "enabled"), "onoff")),
     (("brightness", NUMBER, None), ("color", {"type": "string", "enum": COLORS[:4]}, None)), "switch the light",
     ("Turn {1} the light in the {0}.", "Switch the {0} light {1}.", "Light {1} in the {0} please.", "Turn the light in the {0} {1}", "{0} light {1}")),
    (("get_stock_price", "stock_price", "get_price", "quote"), ("Get the price of a stock", "Stock price by symbol", "Returns the latest price"), ((("symbol", "ticker", "stock"), "symbol"),), (("currency", TEXT, None),), "get the price",
     ("What is the price of {0}?", "How much is {0} now?", "Stock price of {0}", "Get the price of {0}.", "How is {0} doing?", "Price of {0} please")),
    (("get_news", "news", "headlines"), ("Get the news", "News about a topic", "Latest headlines"), ((("topic", "about", "query", "subject"), "word"),), (("limit", NUMBER, None), ("language", TEXT, None)), "get the news",
     ("What is the news about {0}?", "News about {0}", "What's new in {0}?", "Show me the headlines on {0}.", "Get the news on {0}")),
    (("book_table", "reserve_table", "book_restaurant", "reservation"), ("Book a table", "Reserve a table in a restaurant", "Make a reservation"), ((("restaurant", "name", "place"), "name"), (("people", "guests", "persons", "party"), "few"), (("time", "at", "when"), "time")),
     (("outside", FLAG, None), ("phone", TEXT, None)), "book the table",
     ("Book a table for {1} at {0} at {2}.", "Reserve a table at {0} for {1} people at {2}.", "A table for {1} at {2} in {0}, please", "We are {1}, book {0} for {2}.")),
    (("find_route", "directions", "get_directions", "route", "navigate"), ("Find a route", "Directions between two places", "Get the way from one place to another"), ((("from", "start", "origin"), "city"), (("to", "end", "destination"), "city")),
     (("by", {"type": "string", "enum": ["car", "train", "bike"]}, "by {v}"),), "find the route",
     ("How do I get from {0} to {1}?", "Route from {0} to {1}", "What is the way from {0} to {1}?", "Take me from {0} to {1}.", "Directions from {0} to {1} please")),
    (("add_rows", "insert_rows", "append_rows", "insert"), ("Add rows to a table", "Insert rows", "Append entries to a table"), ((("table", "name", "sheet"), "word"), (("rows", "values", "entries", "items"), "rows")),
     (("replace", FLAG, None),), "add the rows", ("Add {1} to the table {0}.", "Add rows to the table {0}: {1}", "Insert {1} into {0}", "Put {1} into the table {0}.", "Append {1} to {0}")),
    (("query_database", "sql", "run_query", "query"), ("Run a query", "Query the database", "Runs SQL and returns rows"), ((("sql", "query", "statement"), "sql"),), (("database", TEXT, None), ("limit", NUMBER, None)), "run the query",
     ("Run {0}", "Run the query {0}", "Query the database: {0}", "What does {0} return?", "Execute `{0}` please.")),
    (("get_user", "find_user", "lookup_user", "getUser", "user_info"), ("Get a user", "Look up a user by name", "Information about a user"), ((("name", "user", "username", "id"), "person"),), (("details", FLAG, None),), "find the user",
     ("Who is {0}?", "Find the user {0}.", "Look up {0}", "Show me the user {0}", "What do we know about {0}?", "Get the user {0}")),
    (("convert_currency", "currency", "convert", "exchange"), ("Convert money", "Convert an amount to another currency", "Currency conversion"), ((("amount", "value", "sum"), "n"), (("from", "source", "have"), "money"), (("to", "target", "want"), "money")),
     (("date", TEXT, None),), "convert the money", ("How much is {0} {1} in {2}?", "Convert {0} {1} to {2}.", "{0} {1} in {2}", "Change {0} {1} into {2}", "What are {0} {1} in {2}?")),
]

DOING = "buy {n}|call {p}|water the {n}|pay the {n}|clean the {n}|feed the {n}|write to {p}|fix the {n}|order {n}|bring the {n} to {p}|check the {n}|send the {n}".split("|")
SYSTEMS = ("", "", "Be brief.", "You are a helpful assistant.", "You are quern-mini.", "You are a coding agent. Use the tools to do what the user asks.", "Answer in English.", "Use the functions when they help.",
           "You are an assistant with tools. Today is a good day.", "Keep answers short.")


class Values:
    def __init__(self, g):
        self.g, self.r, self.w = g, g.r, g.w

    def __getattr__(self, kind):
        """(value, words for it)"""
        g, r, w = self.g, self.r, self.w
        v = {"city": lambda: r.choice(PLACES) if r.random() < 0.6 else w.made(2).capitalize(), "person": g.person, "path": g._path, "word": w.noun, "text": self.said,
             "folder": lambda: r.choice(("", "/", "./", "src/", "~/")) + w.noun() + r.choice(("", "/")), "query": lambda: " ".join(g.phrase_words(r.choice((1, 2, 2, 3)))),
             "command": lambda: r.choice(("ls %s", "ls -la %s", "cat %s", "make %s", "git %s", "grep -n %s .", "python %s.py", "rm %s", "mkdir %s", "npm run %s", "echo %s", "wc -l %s")) % w.noun(),
             "body": lambda: g.code() if r.random() < 0.4 else self.said(), "mail": lambda: "%s@%s.%s" % (w.noun(), w.noun(), r.choice(DOMAINS)), "n": lambda: r.randint(1, 90), "few": lambda: r.randint(2, 12),
             "item": lambda: " ".join(g.phrase_words(r.choice((1, 2)))), "url": lambda: "https://%s.%s/%s" % (w.noun(), r.choice(DOMAINS), w.noun()), "time": lambda: "%02d:%s" % (r.randint(0, 23), r.choice(("00", "15", "30", "45"))),
             "date": lambda: "20%s-%02d-%02d" % (g.digits(2), r.randint(1, 12), r.randint(1, 28)), "expr": lambda: "%d %s %d" % (r.randint(1, 999), r.choice("+-*/"), r.randint(1, 999)),
             "lang": lambda: r.choice("German French Spanish Italian Polish Dutch Greek Turkish".split()), "doing": lambda: r.choice(DOING).format(n=w.noun(), p=r.choice(FIRST)),
             "room": lambda: r.choice(("kitchen", "garden", "hall", "bath", "office", "bedroom", w.noun())), "symbol": lambda: w.noun()[:4].upper(), "name": lambda: w.noun().capitalize(),
             "money": lambda: r.choice(("euro", "dollar", "yen", "franc", "pound", "krone")), "sql": lambda: "SELECT %s FROM %s" % (w.noun(), w.noun())}
        if kind == "onoff":
            on = r.random() < 0.5
            return on, "on" if on else "off"
        if kind == "rows":
            v = [w.noun() for _ in range(r.randint(1, 3))]
            return v, ", ".join(v[:-1]) + (" and " if len(v) > 1 else "") + v[-1]
        v = v[kind]()
        return v, str(v)

    def said(self):
        s = self.g.sentence().rstrip("!") if self.r.random() < 0.6 else "the %s is %s" % (self.w.noun(), self.r.choice(("ready", "late", "here", "done", "open", "gone")))
        return s if self.r.random() < 0.8 else self.w.noun()


TYPES = {"n": "integer", "few": "integer", "onoff": "boolean", "rows": "array"}


def decorate(r, s):
    """Keywords of JSON Schema that real tools have and that change nothing here."""
    if s["type"] == "string" and "enum" not in s and r.random() < 0.15:
        s.update(r.choice(({"minLength": 1}, {"maxLength": 200}, {"maxLength": 400}, {"maxLength": 1000})))
    elif s["type"] == "integer" and r.random() < 0.2:
        s["minimum"] = 0 if r.random() < 0.5 else 1
    elif s["type"] == "boolean" and r.random() < 0.3:
        s["default"] = False
    return s


def spec(g, t):
    """One form of the tool: (what the request says, names of the asked parameters)."""
    r = g.r
    names, texts, asked, beside, _, _ = t
    name = r.choice(names)
    text = r.choice(texts).format(of=r.choice(("of", "for", "in", "at")), place=r.choice(("city", "place", "town", "location"))) + r.choice(("", "", "."))
    keys, props = [], {}
    for choices, kind in asked:
        key = r.choice([c for c in choices if c not in keys])
        keys.append(key)
        s = {"type": TYPES.get(kind, "string")}
        if kind == "rows":
            s["items"] = {"type": "string"}
        if r.random() < 0.4:
            s["description"] = r.choice(("The %s", "the %s", "%s")) % key.replace("_", " ") + r.choice(("", "", " to use", " of it", "."))
        props[key] = decorate(r, s)
    required = list(keys)
    for key, s, _ in beside:
        if key not in props and r.random() < 0.35:
            props[key] = decorate(r, dict(s))
            if r.random() < 0.3:
                props[key]["description"] = "The " + key.replace("_", " ") if r.random() < 0.5 else "optional"
    if r.random() < 0.15:
        order = list(props)
        r.shuffle(order)
        props = {k: props[k] for k in order}
    p = {"type": "object", "properties": props, "required": required}
    if r.random() < 0.15:
        p["additionalProperties"] = False
    return {"type": "function", "function": {"name": name, "description": text, "parameters": p}}, keys


def ask(g, t, form, keys):
    """A question in the user's words: (words, arguments)."""
    r, values = g.r, Values(g)
    _, _, asked, beside, _, asks = t
    got = [getattr(values, kind) for _, kind in asked]
    words = r.choice(asks).format(*(w for _, w in got))
    args = dict(zip(keys, (v for v, _ in got)))
    order = form["function"]["parameters"]["properties"]
    for key, s, phrase in beside:
        if phrase and key in order and r.random() < 0.4 and "\n" not in words:
            v = r.choice(s["enum"]) if "enum" in s else r.randint(2, 20) if s["type"] == "integer" else True
            end = words[-1] if words[-1] in ".?" else ""
            words = words[:len(words) - len(end)] + " " + phrase.format(v=v) + end
            args[key] = v
    if r.random() < 0.12 and "\n" not in words:
        words = r.choice(("Please: %s", "Hi! %s", "Hello, %s", "%s Thanks!", "Could you help? %s")) % words
    if r.random() < 0.1:
        words = words[0].lower() + words[1:]
    return words, args


def everyday(g, thinking):
    r = g.r
    picked, box, forms = r.sample(TOOLS, r.choice((1, 2, 2, 3, 3, 4, 5))), [], []
    for t in picked:
        form, keys = spec(g, t)
        if all(form["function"]["name"] != f["function"]["name"] for f in forms):
            box.append((t, form, keys))
            forms.append(form)
    if r.random() < 0.35:  # some made-up ones among them
        for t in g.toolbox(g.tool(), r.choice((1, 2))):
            forms.append(g.spec(t))
    r.shuffle(forms)
    msgs, every = [], r.random() < 0.5
    if r.random() < 0.4:
        s = r.choice(SYSTEMS)
        if s:
            msgs.append({"role": "system", "content": s})
    for _ in range(r.choice((1, 1, 2, 3, 4))):
        x = r.random()
        if x < 0.15:  # a wish that none of them serves
            t = r.choice([t for t in TOOLS if t not in picked])
            form, keys = spec(g, t)
            words, _ = ask(g, t, form, keys)
            said = g.answer(thinking, "The user wants to %s. No function fits." % t[4], "I have no function to %s." % t[4])
            msgs += [{"role": "user", "content": words}, said]
            continue
        if x < 0.25:
            d = g.plain(thinking)["messages"]
            d = [m for m in d if m["role"] != "system"] if len(d) == 2 or not d[0]["content"] else []
            msgs += d
            continue
        t, form, keys = r.choice(box)
        name = form["function"]["name"]
        words, args = ask(g, t, form, keys)
        calls = [{"type": "function", "function": {"name": name, "arguments": args}}]
        thought = "The user wants to %s. The function %s does that.%s" % (t[4], name, " Parameters: %s." % ", ".join(args) if args else "")
        if r.random() < 0.2 and "\n" not in words:
            if len(keys) == 1 and t[2][0][1] == "city" and words.startswith("What is the weather in {0}?".format(args[keys[0]])):
                v, said = Values(g).city
                words = "What is the weather in %s and in %s?" % (args[keys[0]], said)
                calls.append({"type": "function", "function": {"name": name, "arguments": {keys[0]: v}}})
                thought = "Two calls are needed. First %s, then %s." % (name, name)
            else:
                t2, form2, keys2 = r.choice(box)
                more, args2 = ask(g, t2, form2, keys2)
                if "\n" not in more and (form2 is not form or args2 != args):
                    words = words.rstrip(".?") + r.choice((". Also, ", ". Then ", ". And ", ". After that, ", " and then ")) + more[0].lower() + more[1:]
                    calls.append({"type": "function", "function": {"name": form2["function"]["name"], "arguments": args2}})
                    thought = "Two calls are needed. First %s, then %s." % (name, form2["function"]["name"])
        msgs += [{"role": "user", "content": words}, g.answer(thinking, thought, calls=calls)]
        if r.random() < 0.3:
            msgs += g.results(thinking, len(calls))
    if not msgs or msgs[-1]["role"] == "system":
        return everyday(g, thinking)
    return {"skill": "everyday", "tools": forms, "messages": msgs, "every": every, "thinking": thinking}


if __name__ == "__main__":
    from generate import Generator, render
    made = Generator(3)
    for n in range(6):
        print("".join(t for t, _ in render(everyday(made, n % 2 == 0))), "\n")
