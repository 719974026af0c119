"""The subset of Python that a constraint may write, as a context-free grammar.

The subset is closed under what `ast.parse` demands beyond a grammar: assignment targets, starred places, the order of
parameters and arguments and the mixing of bytes with strings are productions here. Where Python's own grammar
(docs.python.org, "Full Grammar specification", 3.11) accepts and the compiler refuses later, the subset refuses too if
that costs nothing: a lone `*x`, a bare `except:` before others. Not in it: `match` statements, `except*`, `type`
statements, non-ASCII names, f-strings inside f-strings. Operators of one level are not ranked: precedence changes the
tree and never whether there is one.

Notation: 'terminal', CLASS of terminals, [optional], (group), postfix *, alternatives with |. BOL is empty and
stands where a new line is owed.
"""

from __future__ import annotations

__all__ = ["AUGMENTED", "KEYWORDS", "LANGUAGE", "OPERATORS"]

KEYWORDS = (
    "False None True and as assert async await break class continue def del elif else except finally for from global "
    "if import in is lambda nonlocal not or pass raise return try while with yield"
).split()
AUGMENTED = "+= -= *= /= //= %= @= &= |= ^= >>= <<= **=".split()
OPERATORS = (
    *"+ - * / // % @ & | ^ ~ << >> ** == != < <= > >= ( ) [ ] { } , : . ; = -> ... :=".split(),
    *AUGMENTED,
)

_STATEMENTS = """
file: statement* END
statement: simple_line | compound
simple_line: simple [more] NEWLINE
more: ';' [simple [more]]
block: simple_line | NEWLINE inner
inner: INDENT statement statement* DEDENT
simple: values | yielding | targets '=' assigned | place AUGMENT right | place ':' expression ['=' right]
simple: 'pass' | 'break' | 'continue' | 'return' [values] | 'raise' [expression ['from' expression]] | 'del' deleted
simple: 'global' names | 'nonlocal' names | 'assert' expression [',' expression] | 'import' modules | 'from' origin
assigned: right | targets '=' assigned
right: values | yielding
yielding: 'yield' [values] | 'yield' 'from' expression
names: NAME [',' names]
dotted: NAME ['.' dotted]
renamed: NAME ['as' NAME]
modules: dotted ['as' NAME] [',' modules]
origin: dots 'import' imported | [dots] dotted 'import' imported
dots: ('.' | '...') [dots]
imported: '*' | renames | '(' renames_comma ')'
renames: renamed [',' renames]
renames_comma: renamed [',' [renames_comma]]
compound: if | while | for | with | try | define | class | decorated | 'async' (define | for | with)
if: 'if' named ':' block if_rest
if_rest: ['elif' named ':' block if_rest | else]
else: 'else' ':' block
while: 'while' named ':' block [else]
for: 'for' targets 'in' values ':' block [else]
with: 'with' (items | '(' items_comma ')') ':' block
item: expression ['as' target]
items: item [',' items]
items_comma: item [',' [items_comma]]
try: 'try' ':' block BOL handled
handled: finally | 'except' ':' block [else] [finally] | 'except' expression ['as' NAME] ':' block handled_rest
handled_rest: [else] [finally] | 'except' ':' block [else] [finally]
handled_rest: 'except' expression ['as' NAME] ':' block handled_rest
finally: 'finally' ':' block
define: 'def' NAME '(' [parameter_all] ')' ['->' expression] ':' block
class: 'class' NAME ['(' [arguments] ')'] ':' block
decorated: '@' named NEWLINE BOL (decorated | define | class | 'async' define)
parameter: NAME [':' expression]
bound: NAME
"""

_EXPRESSIONS = """
values: expression [',' [values_rest]] | '*' sum ',' [values_rest]
values_rest: (expression | '*' sum) [',' [values_rest]]
expression: logic ['if' logic 'else' expression] | 'lambda' [bound_all] ':' expression
named: expression | NAME ':=' expression
logic: inverse (('and' | 'or') inverse)*
inverse: 'not' inverse | compared
compared: sum (comparison sum)*
comparison: '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not' 'in' | 'is' ['not']
sum: operand (operator operand)*
operator: '+' | '-' | '*' | '/' | '//' | '%' | '@' | '&' | '|' | '^' | '<<' | '>>' | '**'
operand: ('+' | '-' | '~') operand | ['await'] atom trailer*
trailer: '.' NAME | call | '[' slices ']'
call: '(' [arguments | named comprehension] ')'
atom: NAME | literal
literal: 'None' | 'True' | 'False' | NUMBER | '...' | strings | BYTES BYTES* | '(' [inside] ')' | '[' [listed] ']'
literal: '{' [braced] '}'
inside: yielding | '*' sum ',' [elements] | named [comprehension | ',' [elements]]
listed: elements | named comprehension
elements: (named | '*' sum) [',' [elements]]
braced: '**' sum [',' [pairs]] | '*' sum [',' [elements]] | NAME ':=' expression set_rest | expression set_rest
braced: expression ':' expression [comprehension | ',' [pairs]]
set_rest: [comprehension | ',' [elements]]
pairs: ('**' sum | expression ':' expression) [',' [pairs]]
comprehension: ['async'] 'for' targets 'in' logic ('if' logic)* [comprehension]
slices: (slice | '*' expression) [',' [slices]]
slice: named | [expression] ':' [expression] [':' [expression]]
arguments: (named | '*' expression) [',' [arguments]] | arguments_named | arguments_double
arguments_named: NAME '=' expression [',' [arguments_later]]
arguments_later: arguments_named | arguments_double | '*' expression [',' [arguments_later]]
arguments_double: '**' expression [',' [arguments_last]]
arguments_last: arguments_double | NAME '=' expression [',' [arguments_last]]
strings: (STRING | formatted) [strings]
formatted: FSTART replaced* FEND
replaced: FOPEN shown ['='] [CONVERSION] [FCOLON replaced_width*] FCLOSE
replaced_width: FOPEN shown FCLOSE
shown: logic ['if' logic 'else' logic]
"""

_TARGETS = """
targets: target [',' [targets_rest]] | '*' target ',' [targets_rest]
targets_rest: (target | '*' target) [',' [targets_rest]]
target: reached | '(' [target | targets_two] ')' | '[' [targets_rest] ']'
targets_two: target ',' [targets_rest] | '*' target ',' [targets_rest]
reached: NAME reached_rest | literal reaching
reached_rest: ['.' NAME reached_rest | '[' slices ']' reached_rest | call reaching]
reaching: '.' NAME reached_rest | '[' slices ']' reached_rest | call reaching
place: reached | '(' place ')'
deleted: gone [',' [deleted]]
gone: reached | '(' [deleted] ')' | '[' [deleted] ']'
"""

_PARAMETERS = """
P_all: P P_bare | P_star | P_double
P_bare: '=' expression P_default | [',' [P P_bare | '/' P_slash | P_star | P_double]]
P_default: [',' [P '=' expression P_default | '/' P_default_slash | P_star | P_double]]
P_slash: [',' [P P_bare_slash | P_star | P_double]]
P_bare_slash: '=' expression P_default_slash | [',' [P P_bare_slash | P_star | P_double]]
P_default_slash: [',' [P '=' expression P_default_slash | P_star | P_double]]
P_star: '*' P P_keyword | '*' ',' P ['=' expression] P_keyword
P_keyword: [',' [P ['=' expression] P_keyword | P_double]]
P_double: '**' P [',']
"""

LANGUAGE = "".join(
    (
        _STATEMENTS.replace("AUGMENT", "(" + " | ".join(f"'{text}'" for text in AUGMENTED) + ")"),
        _EXPRESSIONS,
        _TARGETS,
        _PARAMETERS.replace("P", "parameter"),
        _PARAMETERS.replace("P", "bound"),
    )
)
