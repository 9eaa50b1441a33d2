"""An MCP server over stdin and stdout with thirty tools, for test_claude_code.py. What a tool says makes the scripted model go on: its
description calls it, its result ends the turn. SPDX-License-Identifier: Apache-2.0
"""
import json
import sys


def tools():
    for i in range(30):
        call = f"</think>⏎⏎<tool_call>⏎<function=mcp__box__tool{i:02}>⏎<parameter=x>⏎{i}⏎</parameter>⏎</function>⏎</tool_call>"
        yield {"name": f"tool{i:02}", "description": f"Gives number {i} of the box. [[say:{call}:yas]]" + " It has a long description." * 20,
               "inputSchema": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}


def answer(method, params):
    if method == "initialize":
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "box", "version": "1"}}
    if method == "tools/list":
        return {"tools": list(tools())}
    if method == "tools/call":
        x = params["arguments"].get("x")
        kind = type(x).__name__
        return {"content": [{"type": "text", "text": f"{params['name']} got {kind} {x} [[say:</think>⏎⏎Number {x} is there.:yas]]"}]}
    return {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer(message["method"], message.get("params", {}))}), flush=True)
