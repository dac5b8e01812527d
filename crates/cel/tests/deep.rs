//! Expressions as deep as upstream's parser allows run on a thread with a small stack; deeper ones
//! are refused in its words.

use cel::{Decl, Env, PER_CALL_LIMIT, Program};

const RULES: &str = "expression recursion limit exceeded: 250";
const HANGING: &str = "max recursion depth exceeded";

/// A shape that nests as often as asked, how often it may, and what is said beyond.
type Shape = (&'static str, fn(usize) -> String, usize, &'static str);

fn around(open: &str, middle: &str, close: &str, n: usize) -> String {
    format!("{}{middle}{}", open.repeat(n), close.repeat(n))
}

const SHAPES: [Shape; 20] = [
    ("parentheses", |n| around("(", "true", ")", n), 249, RULES),
    ("not", |n| around("!(", "true", ")", n), 249, RULES),
    ("minus", |n| around("-(", "1", ")", n), 249, RULES),
    ("lists", |n| around("[", "", "]", n), 250, RULES),
    (
        "equal lists",
        |n| format!("{0} == {0}", around("[", "", "]", n)),
        249,
        RULES,
    ),
    ("maps", |n| around("{'a': ", "1", "}", n), 249, RULES),
    ("keys", |n| around("{", "1", ": 1}.size()", n), 249, RULES),
    ("calls", |n| around("size([", "1", "])", n), 124, RULES),
    (
        "ternaries",
        |n| format!("{}1", "true ? 1 : ".repeat(n)),
        249,
        RULES,
    ),
    (
        "conditions",
        |n| around("(true || ", "true", ")", n),
        249,
        RULES,
    ),
    ("sums", |n| format!("1{}", " + 1".repeat(n)), 250, HANGING),
    (
        "products",
        |n| format!("1{}", " * 1".repeat(n)),
        250,
        HANGING,
    ),
    (
        "relations",
        |n| format!("true{}", " == true".repeat(n)),
        250,
        HANGING,
    ),
    (
        "sums to the right",
        |n| around("1 + (", "1", ")", n),
        124,
        RULES,
    ),
    (
        "relations to the right",
        |n| around("true == (", "true", ")", n),
        124,
        RULES,
    ),
    (
        "fields",
        |n| format!("has(self{})", ".a".repeat(n)),
        250,
        HANGING,
    ),
    (
        "optional fields",
        |n| format!("self{}", ".?a".repeat(n)),
        250,
        HANGING,
    ),
    (
        "items",
        |n| {
            format!(
                "{0}1{1}{2}",
                "[".repeat(100),
                "]".repeat(100),
                "[0]".repeat(n)
            )
        },
        100,
        "no matching overload",
    ),
    (
        "methods",
        |n| format!("'a'{}", ".trim()".repeat(n)),
        250,
        HANGING,
    ),
    (
        "macros",
        |n| around("[1].exists(x, ", "true", ")", n),
        249,
        RULES,
    ),
];

#[expect(
    clippy::disallowed_methods,
    reason = "only a thread has a stack of a size that is asked for"
)]
fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(f);
    thread.expect("a thread").join().expect("no panic");
}

fn compile(text: &str) -> Result<Program, String> {
    let env = Env::new().variable("self", Decl::any());
    Program::compile(text, &env).map_err(|e| e.to_string())
}

#[test]
fn as_deep_as_upstream_and_no_deeper() {
    on_a_small_stack(|| {
        for (what, shape, most, words) in SHAPES {
            let program = compile(&shape(most))
                .unwrap_or_else(|e| panic!("{what}: {}", e.get(..300).unwrap_or(&e)));
            let object = serde_json::json!({});
            let any = Decl::any();
            let value = cel::Value::read(&object, &any).expect("any JSON");
            let ran = program.evaluate(&[Some(value)], PER_CALL_LIMIT);
            drop(ran);
            let refused = compile(&shape(most + 1)).err().unwrap_or_default();
            let said = refused.get(..300).unwrap_or(&refused);
            assert!(refused.contains(words), "{what}: {said}");
            for n in [1_000, 20_000] {
                assert!(compile(&shape(n)).is_err(), "{what}");
            }
        }
    });
}

#[test]
fn what_has_no_place_says_so() {
    let said = compile(&around("(", "true", ")", 250)).err();
    let words = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    assert_eq!(said.as_deref(), Some(words));
    let said = compile(&"1".repeat(100_001)).err();
    let words =
        "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100001, limit 100000";
    assert_eq!(said.as_deref(), Some(words));
}

#[test]
fn macros_that_write_their_target_twice_are_bounded() {
    on_a_small_stack(|| {
        let chain = format!("optional.of(1){}", ".optMap(x, x)".repeat(200));
        assert!(compile(&chain).is_err());
        let nested = around("[1].map(x, ", "x", ")", 166);
        let program = compile(&nested).expect("166 levels of three");
        assert!(program.evaluate(&[None], PER_CALL_LIMIT).result.is_ok());
        assert!(compile(&around("[1].map(x, ", "x", ")", 200)).is_err());
    });
}
