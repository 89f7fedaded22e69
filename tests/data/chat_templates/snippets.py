"""Small templates, one feature each. A null in snippets.json means that jinja2 refuses the snippet."""

CONTEXT = {
    "n": 7,
    "f": 2.5,
    "s": "Hello World",
    "empty": "",
    "u": "héllo wörld 日本",
    "t": True,
    "none": None,
    "list": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "d": {"b": 1, "a": 2, "items": 3},
    "people": [
        {"name": "Ann", "age": 30, "tags": ["x", "y"]},
        {"name": "bob", "age": 25, "tags": []},
        {"name": "Cy", "age": 30},
    ],
    "nested": {"a": {"b": [{"c": 1}, {"c": "two"}]}},
    "html": "<a href=\"x\">'&'</a>",
}

EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 / 2
8 / 2
7 // 2
-7 // 2
7 // -2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
2 ** 10
2 ** -1
2 ** 0.5
-2 ** 2
2 ** 3 ** 2
1 / 3
1e16
1e15
123456789012345678.0
1e-4
1e-5
0.1 + 0.2
1.0
100000.0 * 10
1e300 * 1e10
-f
+f
- 3
1 - -1
1_000
true
True
none
None
false or 3
0 or ''
1 and 2
0 and 2
not 1
not not n
not n == 7
n == 7 and s
1 < 2
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
none == none
none == 0
none < 1
missing == missing
1 in list
9 in list
9 not in list
'x' not in 'xyz'
'ell' in s
1 in s
'a' in d
'z' in d
2 in (1, 2)
1 in missing
1 in n
'a' ~ 1 ~ none ~ true ~ 1.5
'a' ~ missing ~ 'b'
'a' + 'b'
'a' + 1
1 + 'a'
'a' * 3
3 * 'ab'
[1] * 2
[1] + [2]
(1,) + (2,)
[1] + (2,)
'a' 'b'
'%s is %d' % ('x', 3)
'%5.2f|%-5s|%05d|%x' % (1.234, 'ab', 42, 255)
'%s' % [1, 2]
'%s %s' % 'a'
'%d%%' % 5
'%+d' % 5
'%r' % 'a'
'%(a)s' % d
1 if true else 2
1 if false else 2
1 if false
'x' if n > 5 else 'y' if n > 2 else 'z'
(1 if false) is defined
n is defined
missing is defined
missing is undefined
missing
missing.attr
d.missing
d.missing is defined
d.missing.more
none.x
none.x is defined
n is number
f is number
t is number
n is integer
t is integer
f is float
n is float
s is string
n is string
d is mapping
list is mapping
list is sequence
d is sequence
s is sequence
n is sequence
list is iterable
s is iterable
n is iterable
t is boolean
n is boolean
t is true
1 is true
false is false
0 is false
none is none
missing is none
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is eq 7
n is equalto(7)
n is ne 7
n is gt 6
n is ge(7)
n is lt 6
n is le 7
n is in list
3 is in list
n is not none
not n is none
'abc' is lower
'ABC' is upper
'Abc' is lower
1 is sameas 1
none is sameas none
range is callable
n is callable
'upper' is filter
'nope' is filter
'odd' is test
n is nosuchtest
n is defined and s is string
n is defined is true
s[0]
s[-1]
s[99]
s[99] is defined
s[1:4]
s[::-1]
s[-3:]
s[:-3]
s[::2]
s[8:2:-2]
s[100:]
s[-100:3]
u[1]
u[1:5]
u[::-1]
u | length
list[0]
list[-1]
list[5]
list[5] is defined
list[1:]
list[::-1]
list[:-1]
list[-2:]
list[::2]
list[2:0:-1]
list[::0]
list[none:2]
(1, 2, 3)[1:]
list['a']
list.0
d.a
d['a']
d['items']
d.items() | list
d.keys() | list
d.values() | list
d | items | list
d | length
d | list
d.get('a')
d.get('z')
d.get('z', 9)
d.get('z') is none
nested.a.b[0].c
nested['a']['b'][1]['c']
nested.a.b[-1].c | upper
nested
[1, 'a', none, true, 1.5, [2], {'k': 'v'}]
['it\'s', "q\"", 'both \' "']
['new\nline', 'tab\t', 'back\\slash']
['é', '日本', '\x00', '\x7f', '\u200b']
(1,)
()
(1, 2)
1, 2
[]
{}
{'a': 1, 2: 'b', none: 3}
{'a': 1, 'a': 2}
{1: 'a', 1.0: 'b', true: 'c'}
{[1]: 2}
'\n'
'a\tb'
'\x41\u0042\103'
'\d'
"it's"
s.upper()
s.lower()
s.title()
'hELLO wORLD'.capitalize()
'straße'.upper()
'ÀÉÎ'.lower()
'привет'.upper()
'they\'re bill\'s'.title()
'  x '.strip() ~ '|'
'  x '.lstrip() ~ '|'
'  x '.rstrip() ~ '|'
'xxaxx'.strip('x')
'xyaxy'.lstrip('yx')
'axyx'.rstrip('x')
'\n x \t'.strip()
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
' a  b c '.split()
' a  b c '.split(none, 1)
' a  b c '.rsplit(none, 1)
'abc'.split('')
''.split(',')
''.split()
'a\nb\r\nc'.splitlines()
'a</think>b'.split('</think>')[-1]
s.startswith('Hell')
s.startswith(('x', 'H'))
s.endswith('World')
s.endswith('x')
s.replace('o', '0')
s.replace('o', '0', 1)
'abc'.replace('', '-')
s.find('o')
s.find('zz')
u.find('w')
s.rfind('o')
s.find('o', 5)
s.index('W')
s.index('zz')
s.count('o')
s.count('')
', '.join(['a', 'b'])
', '.join([1, 2])
'-'.join('abc')
'{} and {}'.format(1, 'x')
'{1} {0} {name}'.format(1, 2, name='n')
'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}'.format('a', 'b', 'c', 42, 3.14159)
'{{}} {!r}'.format('a')
'{}'.format()
'{:,}'.format(1234567)
'abc'.isalpha()
'abc1'.isalnum()
'12'.isdigit()
' '.isspace()
'ABC'.isupper()
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
s.nosuch
s.nosuch()
s.upper is callable
list.append(4)
d.update({'z': 1})
list.index(2)
list.index(9)
list.count(3)
s | upper
s | lower
s | title
s | capitalize
s | length
list | length
missing | length
n | length
s | trim
'  x ' | trim ~ '|'
'xxaxx' | trim('x')
s | replace('o', '0')
s | replace('o', '0', 1)
n | replace('7', '8')
list | join
list | join(', ')
list | join(d='-')
people | join(', ', attribute='name')
people | map(attribute='name') | join(', ')
people | map(attribute='tags') | list
people | map(attribute='tags', default='none') | list
people | map(attribute='tags.0') | list
words | map('upper') | list
words | map('replace', 'p', 'q') | list
none | map('upper') | list
list | select('odd') | list
list | select('gt', 1) | list
[0, 1, '', 'a'] | select | list
[0, 1, '', 'a'] | reject | list
list | reject('odd') | list
people | selectattr('age', 'equalto', 30) | map(attribute='name') | list
people | selectattr('age', '>', 26) | list | length
people | selectattr('tags') | list | length
people | selectattr('tags', 'defined') | list | length
people | rejectattr('age', 'eq', 30) | map(attribute='name') | first
none | selectattr('x') | list
missing | selectattr('x') | list
list | first
list | last
[] | first
[] | first is defined
s | first
s | last
list | sort
list | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
words | sort(true)
people | sort(attribute='age') | map(attribute='name') | list
people | sort(attribute='age,name') | map(attribute='name') | list
[1, 'a'] | sort
words | unique | list
words | unique(case_sensitive=true) | list
[1, 1.0, 2, true] | unique | list
list | reverse | list
s | reverse
list | sum
list | sum(start=10)
people | sum(attribute='age')
[1, 2.5] | sum
['a', 'b'] | sum
list | min
list | max
words | min
words | max(case_sensitive=true)
people | max(attribute='age')
[] | min
d | dictsort
d | dictsort(by='value')
d | dictsort(reverse=true)
people | groupby('age') | list
people | groupby('tags', default='-') | length
list | batch(2) | list
list | batch(2, 0) | list
missing | default('x')
missing | default
none | default('x')
none | default('x', true)
'' | default('x', boolean=true)
missing | d('y')
missing.x | default('x')
d.zzz | default(d.a)
'42' | int
'42.9' | int
'x' | int
'x' | int(5)
'x' | int(default=6)
'ff' | int(base=16)
'0xff' | int(0, 16)
' 12 ' | int
'1_000' | int
none | int
4.9 | int
-4.9 | int
true | int
'1e3' | int
'inf' | int
missing | int
'2.5' | float
'x' | float
'x' | float(1.5)
3 | float
'1e400' | float
'nan' | float
-3 | abs
-3.5 | abs
true | abs
'x' | abs
2.5 | round
3.5 | round
2.675 | round(2)
2.345 | round(1, 'floor')
2.341 | round(2, 'ceil')
7 | round
1234.5678 | round(2)
1 | string + '1'
n | string | length
list | string
html | e
html | escape
html | safe
html | forceescape
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(2, true, true)
'a\nb' | indent('>> ')
'a\nb' | indent(width=1, first=true)
'%s-%s' | format(1, 'b')
'%(x)s' | format(x=1)
'a b_c d-e' | wordcount
d | tojson
d | tojson(indent=2)
people | tojson(indent=4)
nested | tojson(indent=0)
{} | tojson
[] | tojson(indent=2)
{'a': [], 'b': {}} | tojson(indent=2)
html | tojson
u | tojson
u | tojson(ensure_ascii=true)
'🙂' | tojson(ensure_ascii=true)
'\n\t\r\x08\x0c\x01\\\"/' | tojson
[1, 1.0, 1e20, true, none] | tojson
(1, 2) | tojson
{1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson
d | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
d | tojson(indent='\t')
missing | tojson
range | tojson
s | attr('upper') is callable
d | attr('a') is defined
s | nosuchfilter
range(3) | list
range(1, 4) | list
range(5, 0, -2) | list
range(0) | list
range(0, 5, 0)
range(100001) | length
range(3) | length
range(3)[1]
dict(a=1, b=2)
dict([('x', 1)])
dict(d, z=1)
namespace(a=1).a
namespace(a=1).b
namespace(a=1).b is defined
raise_exception('no')
raise_exception()
nosuch()
n()
strftime_now('%d %b %Y')
strftime_now('%Y-%m-%d')
strftime_now('')
strftime_now is defined
[1, 2, 3,]
{'a': 1,}
1 +
1 2
(1
[1
{'a' 1}
'unterminated
a b
n is
| upper
1 if
.5
5.
1..real
n!
n & 1
""".strip("\n").split("\n")

STATEMENTS = [
    "",
    "plain",
    "plain\n",
    "plain\n\n",
    "a\r\nb\rc",
    "{",
    "{ {",
    "}}",
    "a { b } c",
    "{{ '}}' }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{",
    "{{ }}",
    "{% %}",
    "{% if %}",
    "{%",
    "{# c #}x",
    "{# c",
    "a{# multi\nline #}b",
    "a\n  {# c #}\nb",
    "a\n  {#- c -#}\nb",
    "a {#-#} b",
    "  {{ 1 }}\n  {{ 2 }}\n",
    "  {% if true %}\n  x\n  {% endif %}\n  y",
    "  {%+ if true %}x{% endif +%}\n  y",
    "a {%- if true -%} b {%- endif -%} c",
    "a\n\n{%- if true %}\nb\n{%- endif %}\n\nc",
    "a {{- 1 -}} b",
    "a \n {{- 1 }} \n b",
    "a {{+ 1 }} b",
    "x {% if true %} y {% endif %} z",
    "{% if true %}\n\nx{% endif %}",
    "\t{% set x = 1 %}\t\n{{ x }}",
    "{{ 1 }}\n{{ 2 }}\n",
    "{{ 1 -}}\n\n  {% set x = 2 %}\n{{ x }}",
    "{% raw %}{{ x }}{% if %}{% endraw %}",
    "{% raw %}\n{{ x }}\n{% endraw %}\ny",
    "a {%- raw -%}  {{ x }}  {%- endraw -%}  b",
    "{% raw %}x",
    "{% if true %}a{% else %}b{% endif %}",
    "{% if 0 %}a{% elif '' %}b{% elif [] %}c{% else %}d{% endif %}",
    "{% if 0 %}a{% elif 1 %}b{% elif 1 %}c{% endif %}",
    "{% if missing %}a{% endif %}",
    "{% if true %}a",
    "{% endif %}",
    "{% if true %}a{% endfor %}",
    "{% nosuch %}",
    "{% if n > 5 and s is string or missing.x %}yes{% endif %}",
    "{% for x in list %}{{ x }},{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in list %}{{ loop.previtem is defined }}{% endfor %}",
    "{% for x in [1,1,2] %}{{ loop.changed(x) }};{% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}",
    "{% for x in missing %}x{% else %}none{% endfor %}",
    "{% for x in none %}x{% endfor %}",
    "{% for x in 5 %}x{% endfor %}",
    "{% for x in list if x > 1 %}{{ x }}/{{ loop.length }};{% endfor %}",
    "{% for x in list if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}",
    "{% for c in 'héy' %}{{ c }}-{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }};{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for x in list %}{% for y in list %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{% for y in list %}{% break %}{% endfor %}{{ x }}{% endfor %}",
    "{% break %}",
    "{% for x in list recursive %}{{ x }}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}"
    "{% if x is sequence %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{{ x }}{% endfor %}{{ x is defined }}",
    "{{ loop is defined }}",
    "{% set x = 1 %}{% for y in list %}{{ x }}{% set x = x + 1 %}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for y in list %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}",
    "{% set d.x = 1 %}",
    "{% set missing.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = [1, 2] %}{{ b }}",
    "{% set (a, b) = (1, 2) %}{{ b }}",
    "{% set a, b = 1 %}",
    "{% set x = 1, 2 %}{{ x }}",
    "{% set x %}block {{ n }}{% endset %}[{{ x }}]",
    "{% set x | upper %}block{% endset %}{{ x }}",
    "{% set x | replace('b', 'c') | upper %}block{% endset %}{{ x }}",
    "{% set x = 1 if false else 2 %}{{ x }}",
    "{% set true = 1 %}",
    "{% set 1 = 1 %}",
    "{% set x %}",
    "{% macro m() %}hi{% endmacro %}{{ m() }}{{ m() | upper }}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=4, a=5) }} {{ m() }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(x) %}{{ x }}{% if x > 0 %}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}",
    "{% macro m() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body {{ n }}{% endcall %}",
    "{% macro m() %}[{{ caller(1, 2) }}]{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% call n %}x{% endcall %}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{{ m.name }}{% macro m() %}{% endmacro %}{{ m.name }}",
    "{% for x in list %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% filter upper %}abc {{ s }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% filter trim %}  x  {% endfilter %}|",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% print 1 + 1 %}",
    "{% generation %}text {{ n }}{% endgeneration %}",
    "{% generation %}\nline\n{% endgeneration %}\nnext",
    "{% for p in people %}{{ p.name }}:{% for t in p.tags %}{{ t }}{% endfor %};{% endfor %}",
    "{{ people[0].tags[1:] }}",
    "{% if 'a' in d and d['a'] == 2 %}ok{% endif %}",
    "{% if d.a is defined and d.a is not none %}ok{% endif %}",
    "{{ 'a' if d.a else 'b' }}{{ ('x' ~ 'y') | upper }}",
    "{{ list | map('string') | join('+') }}",
    "{%- for x in list -%}\n  {{ x }}\n{%- endfor -%}\n",
    "{%- for x in list %}\n  {{ x }}\n{% endfor %}\nend",
    "   {%- set x = 1 -%}   \n   {{- x -}}   \n   ",
    "{{ '\n' }}x",
    "{{ 'a' }}\n\n\n",
    "{% if true %}\n    indented\n    {%- if true %}\n        more\n    {%- endif %}\n{% endif %}",
    "{%- if true %}\n{{- 'a' }}\n{%- endif %}\n",
    "{{ 1 }}{# c #}\n{{ 2 }}",
    "{# a #}\n{# b #}\nc",
    "é{{ u }}日\n  {% if t %}\n本{% endif %}",
    "{{ d|tojson }}{{ d | tojson | length }}",
    "{{ raise_exception('bad ' ~ n) if n == 7 }}",
    "{% if false %}{{ raise_exception('x') }}{% endif %}ok",
    "{{ not_called }}{% set not_called = 1 %}",
    "{% set x = namespace() %}{% set x.y = 1 %}{{ x.y }}",
    "{{ [1, 2, 3] | select('divisibleby', 2) | list }}",
    "{% for i in range(3) %}{% if not loop.last %}{{ i }}, {% else %}and {{ i }}{% endif %}{% endfor %}",
    "{{ s.split(' ')[0].lower().strip() | title }}",
    "{{ (list + [9])[-1] }}{{ (1, 2) | length }}{{ [] is sequence }}",
    "{{- ' lead' -}}{{ ' keep ' }}{{- 'x' }}",
]

SNIPPETS = ["{{ " + expression + " }}" for expression in EXPRESSIONS] + STATEMENTS
