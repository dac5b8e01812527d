//! What expressions fail on, before and while they run, in upstream's words.

use super::{env, run};
use crate::Program;

#[test]
fn errors_of_evaluation() {
    for (source, want) in [
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("1u - 2u == 0u", "unsigned integer overflow"),
        ("x.missing == 1", "no such key: missing"),
        ("object.labels['b'] == 'c'", "no such key: b"),
        ("x.list[7] == 1", "index out of bounds: 7"),
        ("x.n + x.s == 1", "no such overload: _+_"),
        ("x.s < x.n", "no such overload: _<_"),
        (
            "optional.none().value() == 1",
            "optional.none() dereference",
        ),
        (
            "int('a') == 1",
            "type conversion error from 'string' to 'int'",
        ),
        ("[].max() == 1", "max called on empty list"),
        ("'a'.substring(3) == ''", "index out of range: 3"),
        (
            "ip('a') == ip('b')",
            "IP Address \"a\" parse error during conversion from string: ParseAddr(\"a\"): unable to parse IP",
        ),
        (
            "lists.range(10000000).size() == 1",
            "operation cancelled: actual cost limit exceeded",
        ),
        (
            "lists.range(900000).all(i, true)",
            "operation cancelled: actual cost limit exceeded",
        ),
        (
            "lists.range(900000).all(i, true) || true",
            "operation cancelled: actual cost limit exceeded",
        ),
        (
            "timestamp('9999-12-30T00:00:00Z') + duration('240h') == timestamp(0)",
            "timestamp overflow",
        ),
        ("0.0 / 0.0 < 1.0", "NaN values cannot be ordered"),
        (
            "'%d'.format(['a']) == ''",
            "error during formatting: decimal clause can only be used on ints, uints, and doubles, was given string",
        ),
        ("'%d'.format([]) == ''", "index 0 out of range"),
        (
            "['a', 'b'].transformMapEntry(i, v, {'k': v}).size() == 1",
            "insert failed: key k already exists",
        ),
    ] {
        match run(source) {
            Err(error) => assert_eq!(error, want, "{source}"),
            Ok(value) => panic!("{source}: {value:?}"),
        }
    }
}

#[test]
fn errors_of_compilation() {
    for (source, want) in [
        (
            "foo",
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (
            "x.foo()",
            "ERROR: <input>:1:6: undeclared reference to 'foo' (in container '')\n | x.foo()\n | .....^",
        ),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "object.nothing",
            "ERROR: <input>:1:7: undefined field 'nothing'\n | object.nothing\n | ......^",
        ),
        (
            "object.name.x",
            "ERROR: <input>:1:12: type 'string' does not support field selection\n | object.name.x\n | ...........^",
        ),
        (
            "1 == 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, string)'\n | 1 == 'a'\n | ..^",
        ),
        (
            "1 && true",
            "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "object.replicas.all(i, true)",
            "ERROR: <input>:1:7: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | object.replicas.all(i, true)\n | ......^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "1 2",
            "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^",
        ),
        (
            "a # b",
            "ERROR: <input>:1:3: Syntax error: token recognition error at: '#'\n | a # b\n | ..^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        (
            "duration('x') == duration('1s')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x') == duration('1s')\n | .........^",
        ),
        (
            "[1].map(1, 2)",
            "ERROR: <input>:1:9: argument is not an identifier\n | [1].map(1, 2)\n | ........^",
        ),
        (
            "has(x)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(x)\n | ....^",
        ),
        (
            "object.name.foo('a')",
            "ERROR: <input>:1:16: undeclared reference to 'foo' (in container '')\n | object.name.foo('a')\n | ...............^",
        ),
        (
            "object.name.contains(1)",
            "ERROR: <input>:1:21: found no matching overload for 'contains' applied to 'string.(int)'\n | object.name.contains(1)\n | ....................^",
        ),
        (
            "if == 1",
            "ERROR: <input>:1:1: reserved identifier: if\n | if == 1\n | ^",
        ),
        (
            "ä == b",
            "ERROR: <input>:1:1: Syntax error: token recognition error at: 'ä'\n | ä == b\n | ＾",
        ),
        (
            "9223372036854775808",
            "ERROR: <input>:1:1: invalid int literal\n | 9223372036854775808\n | ^",
        ),
        (
            "Made{nope: 1}",
            "ERROR: <input>:1:12: undefined field 'nope'\n | Made{nope: 1}\n | ...........^",
        ),
    ] {
        let error = Program::compile(source, &env())
            .err()
            .map(|e| e.to_string());
        let error = error.unwrap_or_else(|| panic!("{source} compiles"));
        assert_eq!(error, want, "{source}");
    }
}
