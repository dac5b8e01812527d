//! Tables of expressions and what comes of them. Facts of upstream's own tables, and of the
//! language's definition.

mod errors;

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::convert::to_text;
use crate::*;

fn env() -> Env {
    Env::new()
        .variable("x", Decl::any())
        .variable("object", object())
        .optional_variable("old", object())
        .variable(
            "authorizer",
            Arc::new(Decl::new(
                "authorizer",
                DeclKind::Other(Type::opaque("kubernetes.authorization.Authorizer")),
                0,
                0,
            )),
        )
        .structure(Arc::new(Decl::object(
            "Made",
            [("name".to_owned(), text()), ("count".to_owned(), whole())],
        )))
}

fn text() -> Arc<Decl> {
    Arc::new(Decl::new("string", DeclKind::String, 100, 2))
}
fn whole() -> Arc<Decl> {
    Arc::new(Decl::new("int", DeclKind::Int, 0, 1))
}

fn object() -> Arc<Decl> {
    let decl = |kind| Arc::new(Decl::new("", kind, 10, 2));
    Arc::new(Decl::object(
        "Thing",
        [
            ("name".to_owned(), text()),
            ("replicas".to_owned(), whole()),
            ("a.b".to_owned(), text()),
            (
                "names".to_owned(),
                decl(DeclKind::List(text(), ListKind::Atomic)),
            ),
            (
                "set".to_owned(),
                decl(DeclKind::List(text(), ListKind::Set)),
            ),
            ("labels".to_owned(), decl(DeclKind::Map(text()))),
            (
                "ratio".to_owned(),
                Arc::new(Decl::new("double", DeclKind::Double, 0, 1)),
            ),
            ("when".to_owned(), decl(DeclKind::Timestamp)),
            ("wait".to_owned(), decl(DeclKind::Duration)),
            ("raw".to_owned(), decl(DeclKind::Bytes)),
        ],
    ))
}

fn thing() -> Json {
    json!({
        "name": "web", "replicas": 3, "a.b": "dotted", "names": ["a", "b", "c"],
        "set": ["x", "y"], "labels": {"app": "web"}, "ratio": 1, "unknown": 1,
        "when": "2024-02-03T04:05:06Z", "wait": "90s", "raw": "QUI=",
    })
}

struct Allow;
impl Authorizer for Allow {
    fn authorize(&self, check: &Check) -> Decision {
        Decision {
            allowed: check.verb == "get" && check.resource == "pods",
            reason: check.name.clone(),
            error: None,
        }
    }
}

fn run(source: &str) -> Result<(String, u64), String> {
    let program = Program::compile(source, &env()).map_err(|e| e.to_string())?;
    let x = json!({"n": 5, "s": "text", "list": [1, 2, 3], "f": 1.5, "none": null, "big": 18446744073709551615u64});
    let (thing, decl, any) = (thing(), object(), Decl::any());
    let variables = [
        Some(Value::read(&x, &any).expect("JSON")),
        Some(Value::read(&thing, &decl).expect("JSON")),
        Some(Value::Optional(None)),
        Some(Value::authorizer(&Allow)),
    ];
    let done = program.evaluate(&variables, PER_CALL_LIMIT);
    match done.result {
        Ok(value) => Ok((to_text(&value), done.cost)),
        Err(error) => Err(error.to_string()),
    }
}

#[track_caller]
fn all_true(sources: &[&str]) {
    let mut failed = Vec::new();
    for source in sources {
        match run(source) {
            Ok((text, _)) if text == "true" => {}
            other => failed.push(format!("{source}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_language() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "(1 + 2) * 3 == 9",
        "-5 / 2 == -2 && -5 % 2 == -1",
        "-9223372036854775808 < 0",
        "0xFF == 255 && 1u + 2u == 3u",
        "dyn(1) == 1.0 && dyn(1u) == 1 && 1.5 > 1 && 2u < 2.5",
        "dyn(1) == dyn('1') ? false : true",
        "'a' + 'b' == \"ab\" && b'a' + b'b' == b'ab'",
        "r'\\d' == '\\\\d' && '''a\n'b''' == 'a\\n\\'b'",
        "'\\u00e9\\x41\\101' == 'éAA'",
        "[1, 2] + [3] == [1, 2, 3] && [[1], [2]] == [[1]] + [[2]]",
        "{'a': 1, 'b': 2}['b'] == 2 && {'a': 1}.a == 1",
        "{1: 'a', 2: 'b'}[dyn(1u)] == 'a' && {true: 1}[true] == 1",
        "'a' in {'a': 1} && 2 in [1, 2] && !(3 in [1, 2])",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "(false ? 1 / 0 : 2) == 2",
        "size('äöü') == 3 && 'abc'.size() == 3 && size([1]) == 1 && size({}) == 0",
        "type(1) == int && type('') == string && type([]) == list && type(null) == null_type",
        "type(type(1)) == type && type(1.0) == double && type({}) == map",
        "type(duration('1s')) == google.protobuf.Duration",
        "int('5') == 5 && int(2.9) == 2 && uint(5) == 5u && double('1.5') == 1.5",
        "string(1) == '1' && string(1.5) == '1.5' && string(true) == 'true' && string(b'a') == 'a'",
        "string(1e21) == '1e+21' && string(0.00001) == '1e-05' && string(100.0) == '100'",
        "bool('true') && !bool('0')",
        "'abc'.contains('b') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc')",
        "'abc'.matches('^a.c$') && matches('a1', '[0-9]')",
        "duration('1h') + duration('30m') == duration('90m')",
        "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "timestamp('2024-02-03T04:05:06Z').getHours() == 4",
        "timestamp('2024-02-03T04:05:06Z').getMonth() == 1",
        "timestamp('2024-02-03T04:05:06Z').getDayOfWeek() == 6",
        "timestamp('2024-02-03T04:05:06Z').getDate() == 3",
        "timestamp('2024-02-03T04:05:06Z').getHours('+02:00') == 6",
        "duration('90s').getMinutes() == 1 && duration('90s').getSeconds() == 90",
        "string(duration('90s')) == '90s'",
        "// a comment\n1 == 1",
    ]);
}

#[test]
fn macros_and_optionals() {
    all_true(&[
        "[1, 2, 3].all(i, i > 0) && ![1, 2].all(i, i > 1)",
        "[1, 2].exists(i, i == 2) && ![].exists(i, i == 2)",
        "[1, 2, 2].exists_one(i, i == 1) && ![2, 2].exists_one(i, i == 2)",
        "[1, 2, 3].map(i, i * 2) == [2, 4, 6]",
        "[1, 2, 3].map(i, i > 1, i * 2) == [4, 6]",
        "[1, 2, 3].filter(i, i != 2) == [1, 3]",
        "{'a': 1, 'b': 2}.all(k, k != 'c') && {'a': 1}.map(k, k) == ['a']",
        "[[1, 2], [3]].map(l, l.map(i, i + 1)) == [[2, 3], [4]]",
        "[0, 1].exists(i, 1 / i == 1)",
        "has(x.n) && !has(x.m) && has(object.name) && has({'a': 1}.a)",
        "[1, 2].all(i, v, i < v)",
        "['a', 'b'].exists(i, v, i == 1 && v == 'b')",
        "{'a': 1}.existsOne(k, v, k == 'a' && v == 1)",
        "['a', 'b'].transformList(i, v, string(i) + v) == ['0a', '1b']",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10) == {'b': 20}",
        "{'a': 1}.transformMapEntry(k, v, {v: k}) == {1: 'a'}",
        "x.?n.hasValue() && !x.?m.hasValue() && x.?m.orValue(7) == 7",
        "x.?m.?o.orValue('d') == 'd' && x.?m.or(x.?n).value() == 5",
        "x.list[?1].value() == 2 && !x.list[?9].hasValue()",
        "optional.of(1).optMap(y, y + 1).value() == 2 && !optional.none().optMap(y, y).hasValue()",
        "x.?n.optFlatMap(n, n > 3 ? optional.of(n) : optional.none()).value() == 5",
        "[?x.?n, ?x.?m] == [5] && {?'a': x.?n, ?'b': x.?m} == {'a': 5}",
        "optional.ofNonZeroValue('') == optional.none()",
        "[1].first().value() == 1 && ![].last().hasValue()",
        "[optional.of(1), optional.none()].unwrapOpt() == [1]",
        "!old.hasValue() && old.?name.orValue('n') == 'n' && !old.name.hasValue()",
        "['c', 'a', 'b'].sortBy(s, s) == ['a', 'b', 'c']",
        "[{'n': 2}, {'n': 1}].sortBy(m, m.n)[0].n == 1",
        "Made{name: 'a', count: 1}.name == 'a' && Made{name: 'a'} == Made{name: 'a'}",
    ]);
}

#[test]
fn declared_values() {
    all_true(&[
        "object.name == 'web' && object.replicas + 1 == 4",
        "object.a__dot__b == 'dotted'",
        "object.names == ['a', 'b', 'c'] && object.names[2] == 'c'",
        "object.set == ['y', 'x'] && object.set + ['x', 'z'] == ['z', 'y', 'x']",
        "object.labels['app'] == 'web' && object.labels.app == 'web'",
        "object.ratio == 1.0 && type(object.ratio) == double",
        "object.when.getFullYear() == 2024 && object.wait == duration('90s')",
        "object.raw == b'AB'",
        "object.labels.all(k, k == 'app')",
        "x.n == 5 && x.s == 'text' && x.f == 1.5 && x.none == null && x.big == 18446744073709551615u",
        "type(x.n) == int && x.list.map(i, i + 1) == [2, 3, 4]",
    ]);
}

#[test]
fn libraries() {
    all_true(&[
        "'tacocat'.charAt(3) == 'o' && 'äb'.charAt(0) == 'ä' && 'a'.charAt(1) == ''",
        "'hello mellow'.indexOf('') == 0 && 'hello mellow'.indexOf('ello') == 1",
        "'hello mellow'.indexOf('ello', 2) == 7 && 'hello mellow'.indexOf('jello') == -1",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "['hello', 'mellow'].join() == 'hellomellow' && ['a', 'b'].join(' ') == 'a b' && [].join('/') == ''",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'ab'.replace('', '_') == '_a_b_'",
        "'a b c'.split(' ') == ['a', 'b', 'c'] && 'a b c'.split(' ', 2) == ['a', 'b c'] && 'ab'.split('') == ['a', 'b']",
        "'a'.split(' ', 0) == [] && ''.split('') == [] && ''.split(',') == ['']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "'  \\ttrim\\n  '.trim() == 'trim' && 'TacoCÆt'.lowerAscii() == 'tacocÆt'",
        "'%s %d %.2f %x %b %o'.format(['a', 1, 1.5, 255, 5, 8]) == 'a 1 1.50 ff 101 10'",
        "'%s'.format([[1, 'a', {'k': null}]]) == '[1, a, {k: null}]' && '%%'.format([]) == '%'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'abc 123'.find('[0-9]+') == '123' && 'a'.find('b') == '' && '123 abc 456'.findAll('[0-9]+') == ['123', '456']",
        "'123 abc 456'.findAll('[0-9]+', 1) == ['123']",
        "[1, 2, 2].isSorted() && ![2, 1].isSorted() && [1, 3].sum() == 4 && [1.0, 2.0].sum() == 3.0",
        "[duration('1s'), duration('2s')].sum() == duration('3s') && [].sum() == 0",
        "[1, 3].max() == 3 && ['a', 'b'].min() == 'a' && [1, 2, 2].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2",
        "[1, 2, 3].slice(1, 3) == [2, 3] && [[[1], [2]], [[3]]].flatten(2) == [1, 2, 3] && [[1], [2]].flatten() == [1, 2]",
        "lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1] && [1, 1, 2].distinct() == [1, 2] && [3, 1].sort() == [1, 3]",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2]) && !sets.intersects([], [1])",
        "url('https://user@example.com:8080/a%20b/c?k=1&k=2&l=x#frag').getHost() == 'example.com:8080'",
        "url('https://example.com:80/path').getHostname() == 'example.com' && url('https://example.com:80/').getPort() == '80'",
        "url('https://[::1]:80/path').getHostname() == '::1' && url('/path').getScheme() == '' && url('https://a/b c').getEscapedPath() == '/b%20c'",
        "url('https://a/?k=1&k=2&l').getQuery() == {'k': ['1', '2'], 'l': ['']}",
        "isURL('https://a') && isURL('/a') && !isURL('a') && !isURL('https://a:b') && !isURL('') && !isURL('../rel')",
        "quantity('1Gi') == quantity('1024Mi') && isQuantity('10Mi') && !isQuantity('x')",
        "quantity('50k').add(20).sub(quantity('20')).compareTo(quantity('50k')) == 0 && quantity('1').isGreaterThan(quantity('999m'))",
        "quantity('50k').asInteger() == 50000 && quantity('1500m').isInteger() == false && quantity('9999999999999999999999').isInteger() == false",
        "quantity('50.703k').asApproximateFloat() == 50703.0 && quantity('1.5').asApproximateFloat() == 1.5 && sign(quantity('-1')) == -1",
        "semver('1.2.3').major() == 1 && semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('1.2.3-alpha.1+b') && !isSemver('1.2')",
        "semver('v1.0', true) == semver('1.0.0') && semver('01.02', true).minor() == 2 && !isSemver('v1.0.0') && semver('1.0.0').compareTo(semver('1.0.0+b')) == 0",
        "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && ip('169.254.1.1').isLinkLocalUnicast() && ip('224.0.0.1').isLinkLocalMulticast()",
        "ip('192.168.0.1').isGlobalUnicast() && ip('0.0.0.0').isUnspecified() && ip.isCanonical('127.0.0.1') && !ip.isCanonical('::0001') && string(ip('::1')) == '::1'",
        "!isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0') && isIP('fe80::1') && !isIP('1.2.3') && ip('::1') == ip('0::1')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && cidr('192.168.0.0/24').containsIP(ip('192.168.0.9')) && !cidr('192.168.0.0/24').containsIP('192.168.1.1')",
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0/25') && !cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/23'))",
        "cidr('192.168.0.7/24').masked() == cidr('192.168.0.0/24') && cidr('::/7').prefixLength() == 7 && cidr('192.168.0.0/24').ip() == ip('192.168.0.0') && string(cidr('::1/24')) == '::1/24'",
        "isCIDR('::/0') && !isCIDR('1.2.3.4') && !isCIDR('1.2.3.4/33') && !isCIDR('1.2.3.4/01')",
        "!format.dns1123Label().validate('my-label').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "!format.named('dns1123Subdomain').value().validate('a.b').hasValue() && !format.named('x').hasValue() && !format.dns1123LabelPrefix().validate('a-').hasValue()",
        "format.uuid().validate('x').value() == ['does not match the UUID format'] && !format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "!format.date().validate('2021-01-01').hasValue() && !format.datetime().validate('2021-01-01T00:00:00Z').hasValue() && !format.byte().validate('aGVsbG8=').hasValue() && !format.uri().validate('http://a').hasValue()",
        "authorizer.group('').resource('pods').namespace('n').name('p').check('get').allowed()",
        "authorizer.group('').resource('pods').name('p').check('get').reason() == 'p'",
        "!authorizer.path('/healthz').check('get').allowed() && !authorizer.serviceAccount('ns', 'sa').group('').resource('pods').check('create').errored()",
    ]);
}

#[test]
fn costs_of_running() {
    for (source, want) in [
        ("true", 0),
        ("x == x", 3),
        ("object.name == 'web'", 3),
        ("object.names[0] == 'a'", 4),
        ("has(object.name)", 1),
        ("has(object.labels.app)", 2),
        ("object.names.all(n, n != '')", 15),
        ("object.names.exists(n, n == 'a')", 12),
        ("object.names.map(n, n)", 42),
        ("object.replicas > 1 ? object.name : ''", 4),
        ("'a' in ['a', 'b']", 0),
        ("object.name in ['a', 'b']", 2),
        ("[object.name]", 12),
        ("{'a': object.name}", 32),
        ("object.name.contains('w') && true", 3),
        (
            "authorizer.group('').resource('pods').check('get').allowed()",
            350_004,
        ),
        ("sets.contains([1, 2], [1])", 3),
    ] {
        let (_, cost) = run(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(cost, want, "{source}");
    }
}

#[test]
fn what_is_deep_or_large_is_refused() {
    for source in [
        "(".repeat(300) + "1" + &")".repeat(300),
        "[".repeat(300) + &"]".repeat(300),
        "!".repeat(20_000) + "(" + &"-".repeat(3000) + "x)",
        "x".to_owned() + &".a".repeat(10_000),
        "1".to_owned() + &"+1".repeat(10_000),
        "[1]".to_owned() + &".map(x, x)".repeat(200),
        "x.?a".to_owned() + &".optMap(y, y)".repeat(60),
        "true".to_owned() + &" && true".repeat(20_000),
        "\"".repeat(100_001),
        "{".repeat(5000),
        "x ? ".repeat(5000),
        "x[".repeat(5000),
        "f(".repeat(5000),
    ] {
        if let Ok(program) = Program::compile(&source, &env()) {
            let _ = program.evaluate(&[], PER_CALL_LIMIT);
        }
    }
}

#[test]
fn types_do_not_grow_without_bound() {
    // Each level doubles the type: only fuel ends that.
    let mut source = "optional.of(1)".to_owned();
    for i in 0..40 {
        source += &format!(".optMap(v{i}, [{{'a': [v{i}], 'b': [v{i}]}}][0].map(k, [v{i}]))");
        if source.len() > 60_000 {
            break;
        }
    }
    let _ = Program::compile(&source, &env());
    let nested = (0..24).fold("[1]".to_owned(), |inner, i| {
        format!("{inner}.map(a{i}, {{[a{i}]: [a{i}]}})")
    });
    let _ = Program::compile(&nested, &env());
}

#[test]
fn work_is_linear() {
    let steps = |n: usize| {
        let source = "object.name == 'web'".to_owned() + &" && object.replicas > 1".repeat(n);
        let program = Program::compile(&source, &env()).expect("compiles");
        program.steps.len()
    };
    assert!(steps(1600) <= 16 * steps(100));
    let cost = |n: i64| {
        let source = format!("lists.range({n}).map(i, i + 1).size() == {n}");
        let program = Program::compile(&source, &env()).expect("compiles");
        program.evaluate(&[], u64::MAX).cost
    };
    assert!(cost(32_000) <= 16 * cost(2_000));
}

#[test]
fn programs_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Program>();
    shared::<Env>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the text, there is an answer, within the limit.
    #[test]
    fn no_text_panics(words in proptest::collection::vec(prop_oneof![
        Just("x"), Just("object"), Just("."), Just("name"), Just("names"), Just("("), Just(")"),
        Just("["), Just("]"), Just("{"), Just("}"), Just(","), Just("1"), Just("'a'"), Just("=="),
        Just("+"), Just("-"), Just("!"), Just("&&"), Just("?"), Just(":"), Just("all"), Just("map"),
        Just("i"), Just("has"), Just("size"), Just("in"), Just("1u"), Just("1.5"), Just("optMap"),
        Just(".?"), Just("[?"), Just("type"), Just("null"), Just("b'x'"), Just("format"),
    ], 0..24)) {
        let source = words.join(" ");
        if let Ok(program) = Program::compile(&source, &env()) {
            let (thing, decl) = (thing(), object());
            let value = Value::read(&thing, &decl).expect("JSON");
            let variables = [Some(value.clone()), Some(value), None, None];
            let done = program.evaluate(&variables, 10_000);
            prop_assert!(done.result.is_err() || done.cost <= 10_000);
        }
    }

    #[test]
    fn no_bytes_panic(source in "\\PC{0,60}") {
        let _ = Program::compile(&source, &env());
    }
}

#[test]
fn patches_are_made_of_objects_whose_types_follow_their_fields() {
    let env = Env::new().variable("x", Decl::any()).with_patches();
    let run = |source: &str| {
        let program = Program::compile(source, &env).map_err(|e| e.issues[0].message.clone())?;
        let done = program.evaluate(&[None], PER_CALL_LIMIT);
        let value = done.result.map_err(|e| e.to_string())?;
        Ok::<_, String>((program.result().text(), value.to_json(), value.misplaced()))
    };
    let made = run("Object{spec: Object.spec{replicas: 1 + 2, tags: ['a'], notes: {'k': 'v'}}}");
    let want = json!({"spec": {"replicas": 3, "tags": ["a"], "notes": {"k": "v"}}});
    assert_eq!(made, Ok(("Object".into(), want, Vec::new())));
    let (_, _, misplaced) = run("Object{spec: Object.status{}}").expect("it runs");
    assert_eq!(misplaced.len(), 1);
    assert!(misplaced[0].contains("\"Object.status\", expected \"Object.spec\""));
    let (_, _, below) = run("Object{spec: Object.spec{list: [Object.spec.item{}]}}").expect("runs");
    assert!(below[0].contains("expected \"Object.spec.list\""));
    let (ty, ops, _) = run(
        "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: Object.a{x: 1}}]",
    )
    .expect("it runs");
    assert_eq!(ty, "list(JSONPatch)");
    assert_eq!(
        ops,
        json!([{"op": "add", "path": "/a/b~1c", "value": {"x": 1}}])
    );
    assert_eq!(run("Object{n: [1, 2]}.n.sum()").map(|r| r.1), Ok(json!(3)));
    assert_eq!(
        run("Object{n: 1} == Object{n: 2 - 1}").map(|r| r.1),
        Ok(json!(true))
    );
    assert_eq!(
        run("jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'").map(|r| r.1),
        Ok(json!(true))
    );
    let elsewhere = Program::compile("jsonpatch.escapeKey('a')", &Env::new()).err();
    assert!(elsewhere.is_some_and(|e| e.to_string().contains("undeclared reference")));
    let other = run("JSONPatch{op: 1}").expect_err("op is a text");
    assert!(
        other.contains("expected type of field 'op' is 'string'"),
        "{other}"
    );
    let other = run("Other{}").expect_err("no such type");
    assert!(other.contains("undeclared reference to 'Other'"), "{other}");
    let plain = Program::compile("Object{}", &Env::new()).err();
    assert!(plain.is_some_and(|e| e.to_string().contains("undeclared reference to 'Object'")));
}

#[test]
fn composed_fields_run_once_and_when_they_are_read() {
    let base = || Env::new().variable("n", Decl::any());
    let mut fields: Vec<(Arc<str>, Result<Program, String>)> = Vec::new();
    let mut types: Vec<(Arc<str>, Type)> = Vec::new();
    for (name, source) in [
        ("double", "n * 2"),
        ("text", "string(variables.double) + '!'"),
        ("wrong", "n.missing"),
        ("costly", "[1, 2, 3].map(x, [1, 2, 3].map(y, x * y)).size()"),
    ] {
        let env = base().composed("variables", &types);
        let program = Program::compile(source, &env).expect(source);
        types.push((Arc::from(name), program.result().clone()));
        fields.push((Arc::from(name), Ok(program)));
    }
    fields.push((Arc::from("broken"), Err("no".into())));
    types.push((Arc::from("broken"), Type::Dyn));
    let env = base().composed("variables", &types);
    let object = json!(21);
    let decl = Decl::any();
    let n = Value::read(&object, &decl).ok();
    let lazy = Lazy::new(&fields);
    let compile = |source: &str| Program::compile(source, &env).expect(source);
    let text = compile("variables.text == '42!' && variables.text.size() == 3");
    let done = text.evaluate_with(&[n.clone(), None], &lazy, PER_CALL_LIMIT);
    assert!(matches!(done.result, Ok(Value::Bool(true))), "{done:?}");
    assert_eq!(text.composed(), [1]);
    // Both fields were paid for, once, and beside the expression itself.
    let (own, cost) = (done.cost, lazy.take_cost());
    assert!(cost > 0 && lazy.take_cost() == 0);
    let again = text.evaluate_with(&[n.clone(), None], &lazy, PER_CALL_LIMIT);
    assert_eq!((again.cost, lazy.take_cost()), (own, 0));
    let failing = [compile("variables.wrong"), compile("variables.broken")];
    for (program, want) in failing.iter().zip([
        "composited variable \"wrong\" fails to evaluate: ",
        "composited variable \"broken\" fails to compile: no",
    ]) {
        let done = program.evaluate_with(&[n.clone(), None], &lazy, PER_CALL_LIMIT);
        let error = done.result.expect_err(want).to_string();
        assert!(error.starts_with(want), "{error}");
    }
    // What is not asked for does not fail, and what decides is not held up by what fails.
    let decided = compile("true || variables.wrong");
    let done = decided.evaluate_with(&[n.clone(), None], &lazy, PER_CALL_LIMIT);
    assert!(matches!(done.result, Ok(Value::Bool(true))));
    // A field's type is known to those that read it.
    let unfit = Program::compile("variables.text + 1", &env)
        .err()
        .expect("text and number");
    assert!(
        unfit.to_string().contains("applied to '(string, int)'"),
        "{unfit}"
    );
    let unknown = Program::compile("variables.nothing", &env)
        .err()
        .expect("unknown");
    assert!(
        unknown.to_string().contains("undefined field 'nothing'"),
        "{unknown}"
    );
}

#[test]
fn comparing_types_and_lists_of_constant_maps_is_cheap() {
    // The first variable's declaration says how large a type may be: an object has no size.
    let env = Env::new().variable("self", object()).with_declared_sizes();
    let cost = |source: &str| Program::compile(source, &env).expect(source).cost().max;
    assert_eq!(cost("type(self) == int"), 3);
    assert_eq!(cost("type(self) == google.protobuf.Timestamp"), 3);
    let constant = Program::compile("[{'a': 1}, {'a': 2}].size()", &env).expect("it compiles");
    assert_eq!(constant.evaluate(&[None], PER_CALL_LIMIT).cost, 1);
}
