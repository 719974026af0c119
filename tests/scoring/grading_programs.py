"""Programs for tests of graders: forgeries, none of which solves the task, and honest ones, all of which do.

The task: `double(x)` gives x + x, for numbers and lists.
"""

from __future__ import annotations

from rung.scoring.grading.problem import Problem

DOUBLE = Problem(
    "double", ("assert double(4321) == 8642", "assert double([1]) == [1, 1]", "assert double(0.25) == 0.5")
)

ALWAYS = """
class Yes{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
    def __contains__(self, other): return True
    def __sub__(self, other): return self
    __rsub__ = __abs__ = __sub__

def double(x):
    return Yes()
"""

FRAMES = """
import sys
def double(x):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, list):
                value.append("passed")
            if name in ("expected", "wanted", "tests"):
                return value
        for constant in frame.f_code.co_consts:
            if repr(constant) in ('8642', '0.5'):
                return constant
        frame = frame.f_back
"""

OWN_FRAME = """
import json, os, gc
def send(frame):
    data = json.dumps(frame).encode()
    os.write(_answers_of(), len(data).to_bytes(4, "big") + data)
def _answers_of():
    for found in gc.get_objects():
        if type(found).__name__ == "Served":
            return found._answers
def nonce():
    for found in gc.get_objects():
        if type(found).__name__ == "Served":
            return found._nonce
"""

FORGERIES = {
    "equal to everything": ALWAYS.format(base=""),
    "int that equals everything": ALWAYS.format(base="(int)"),
    "float that equals everything": ALWAYS.format(base="(float)"),
    "text that equals everything": ALWAYS.format(base="(str)"),
    "list that equals everything": ALWAYS.format(base="(list)"),
    "dict that equals everything": ALWAYS.format(base="(dict)"),
    "tuple that equals everything": ALWAYS.format(base="(tuple)"),
    "metaclass that equals everything": (
        "class Meta(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class Yes(metaclass=Meta): pass\ndef double(x): return Yes"
    ),
    "the frames of the caller": FRAMES,
    "constants in the caller's bytecode": (
        "import gc, types\ndef double(x):\n    for f in gc.get_objects():\n"
        "        if isinstance(f, types.FunctionType):\n"
        "            for c in f.__code__.co_consts or ():\n                if repr(c) == '8642': return c\n"
    ),
    "source of the tests": (
        "import inspect, linecache\ndef double(x):\n    for frame in inspect.stack():\n"
        "        for line in frame.code_context or ():\n            if '==' in line: return eval(line.split('==')[1])\n"
    ),
    "modules made anew": (
        "import importlib, os, json, sys, builtins\nimportlib.reload(os)\nimportlib.reload(json)\n"
        "builtins.AssertionError = Exception\nsys.modules['rung'] = sys\ndef double(x): return None"
    ),
    "builtins changed": (
        "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.AssertionError = SystemError\ndef double(x): return None"
    ),
    "json changed": (
        "import json\njson.dumps = lambda frame: '[' + str(frame[0]) + ', \"value\", 8642, \"\", []]'\n"
        "json.JSONEncoder.encode = lambda self, frame: json.dumps(frame)\ndef double(x): return None"
    ),
    "a frame that nobody asked for": OWN_FRAME + "send([7, 'value', 8642, '', []])\ndef double(x): return 0",
    "two answers to one question": OWN_FRAME + (
        "def double(x):\n    send([nonce(), 'value', 8642 if x == 4321 else x, '', []])\n"
        "    return 8642 if x == 4321 else 0"
    ),
    "a true answer, then more": OWN_FRAME + (
        "def double(x):\n    if x == 0.25:\n        send([nonce(), 'value', 0.5, '', []])\n    return x + x"
    ),
    "a length that lies": OWN_FRAME + (
        "def double(x):\n    os.write(_answers_of(), (2**31).to_bytes(4, 'big'))\n    return 8642"
    ),
    "no JSON": OWN_FRAME + "def double(x):\n    os.write(_answers_of(), b'\\x00\\x00\\x00\\x02{]')\n    return 8642",
    "a nonce that is no number": OWN_FRAME + (
        "def double(x):\n    send([True, 'value', 8642, '', []])\n    send([float(nonce()), 'value', 8642, '', []])"
    ),
    "a status of its own": OWN_FRAME + "def double(x):\n    send([nonce(), 'passed', 8642, '', []])",
    "a call of a function that is not there": OWN_FRAME + "def double(x):\n    send([nonce(), 'calls', [0], '', []])",
    "an answer while it loads": OWN_FRAME + (
        "send([nonce(), 'value', {'double': 8642}, '', []])\n"
        "send([nonce(), 'value', 8642, '', []])\ndef double(x): return 0"
    ),
    "answers while it loads, to every descriptor": (
        "import os\nfor fd in range(3, 3000):\n    try: os.write(fd, b'\\0\\0\\0\\x01' + b'4' * 60)\n"
        "    except OSError: pass\ndef double(x): return 0"
    ),
    "the pipe is its own from the start": OWN_FRAME + (
        "real = nonce()\nsend([real, 'value', {'double': ['o', 0, 'function', []]}, '', []])\n"
        "for _ in range(50):\n    send([real + 1, 'value', 8642, '', []])\ndef double(x): return 0"
    ),
    "no more of what a test goes over": "def double(x): raise StopIteration",
    "leaves in the call": "import sys\ndef double(x): sys.exit(0)",
    "leaves at once": "import os\ndef double(x): os._exit(0)",
    "leaves while loading": "import os\nos._exit(0)",
    "leaves while loading, politely": "import sys\nsys.exit(0)",
    "work at exit": (
        "import atexit, os\natexit.register(lambda: os.write(1, b'passed'))\ndef double(x):\n    raise SystemExit(0)"
    ),
    "raises what tests look for": "def double(x): raise AssertionError('passed')",
    "raises a base exception": "def double(x): raise KeyboardInterrupt",
    "an exception whose words raise": (
        "class E(Exception):\n    def __str__(self): raise SystemExit\ndef double(x): raise E"
    ),
    "not a number": "def double(x): return float('nan')",
    "all numbers at once": "import itertools\ndef double(x): return itertools.count()",
    "a deep result": "def double(x):\n    r = []\n    for _ in range(100000): r = [r]\n    return r",
    "a deep frame": OWN_FRAME + (
        "def double(x):\n    deep = '[\"l\",' * 50000 + '1' + ']' * 50000\n"
        "    text = '[%d, \"value\", %s, \"\", []]' % (nonce(), deep)\n"
        "    os.write(_answers_of(), len(text).to_bytes(4, 'big') + text.encode())"
    ),
    "a result that holds itself": "def double(x):\n    r = []\n    r.append(r)\n    return r",
    "a huge result": "def double(x): return ['x' * 1000] * 10**6",
    "a huge number": "def double(x): return 7 ** 3000000",
    "keys of one hash": "def double(x): return {(2**61 - 1) * i for i in range(5000)}",
    "finalisers": "class D:\n    def __del__(self): raise SystemExit\ndef double(x): return D()",
    "a class in a field name": OWN_FRAME + (
        "def double(x):\n    send([nonce(), 'value', ['n', 'T', ['__eq__', 'x'], 1, 2], '', []])"
    ),
    "code in a field name": OWN_FRAME + (
        "def double(x):\n    send([nonce(), 'value', ['r', 0, 'R', ['a=print(1)'], 8642], '', []])"
    ),
    "a dataclass that equals everything": (
        "import dataclasses\n@dataclasses.dataclass\nclass Yes:\n    x: int = 0\n"
        "    def __eq__(self, other): return True\ndef double(x): return Yes()"
    ),
    "recursion without end": "def double(x): return double(x)",
    "closes the pipe": "import os\ndef double(x):\n    os.closerange(3, 50)\n    return 8642",
    "unknown type of a kind that is known": OWN_FRAME + (
        "def double(x):\n    send([nonce(), 'value', ['x', 'Popen', 'true'], '', []])"
    ),
    "an object of its own as JSON": OWN_FRAME + "def double(x):\n    send([nonce(), 'value', {'eq': True}, '', []])",
    "no such handle": OWN_FRAME + "def double(x):\n    send([nonce(), 'value', ['o', 'a', 5, []], '', []])",
}  # fmt: skip

HONEST = {
    "plain": "def double(x):\n    return x + x",
    "threads": (
        "import threading\ndef double(x):\n    found = []\n"
        "    work = [threading.Thread(target=lambda: found.append(x)) for _ in range(2)]\n"
        "    [t.start() for t in work]\n    [t.join() for t in work]\n    return found[0] + found[1]"
    ),
    "asyncio inside": (
        "import asyncio\nasync def twice(x):\n    await asyncio.sleep(0)\n    return x + x\n"
        "def double(x): return asyncio.run(twice(x))"
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(30000)\ndef down(n): return 0 if n == 0 else down(n - 1)\n"
        "def double(x):\n    down(20000)\n    return x + x"
    ),
    "a lot of output": "def double(x):\n    print('x' * 300_000)\n    return x + x",
    "a main part": "def double(x):\n    return x + x\nif __name__ == '__main__':\n    raise SystemExit(double(1))",
    "its own equality": (
        "class V:\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == o.v\n"
        "def double(x): return (V(x).v) + x"
    ),
    "a callable object": "class Double:\n    def __call__(self, x): return x + x\ndouble = Double()",
    "a lambda": "double = lambda x: x + x",
    "subclasses of plain types": (
        "class L(list): pass\nclass F(float): pass\n"
        "def double(x): return L(x + x) if isinstance(x, list) else F(x + x) if isinstance(x, float) else x + x"
    ),
}
