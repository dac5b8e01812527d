//! Selectors of devices (`resource.k8s.io`): expressions over one variable, `device`, as upstream
//! declares it. Who checks a selector when it is written and who runs it both compile it here.

use std::sync::{Arc, LazyLock};

use crate::{Decl, DeclKind, Env, Program, Type};

/// What one run may cost, and what one may be estimated at; upstream's.
pub const COST_LIMIT: u64 = 1_000_000;
/// Longest expression, in bytes; upstream's.
pub const LONGEST: usize = 10 * 1024;
/// Longest domain of an attribute, in bytes; as the others, upstream's.
pub const LONGEST_DOMAIN: i64 = 63;
const LONGEST_DRIVER: i64 = 63;
const LONGEST_ATTRIBUTE: i64 = 64;
const MOST_ATTRIBUTES: i64 = 32;

fn env() -> Env {
    let map = |of: Arc<Decl>| {
        let kind = DeclKind::Map(of);
        Arc::new(Decl::new("map", kind, MOST_ATTRIBUTES, 2))
    };
    let text = |most| Arc::new(Decl::new("string", DeclKind::String, most, 2));
    let quantity = Decl::of(Type::opaque("kubernetes.Quantity"));
    let attribute = Arc::new(Decl::new("dyn", DeclKind::Dyn, LONGEST_ATTRIBUTE, 1));
    let fields = [
        ("driver", text(LONGEST_DRIVER)),
        (
            "allowMultipleAllocations",
            Arc::new(Decl::new("bool", DeclKind::Bool, 0, 4)),
        ),
        ("attributes", map(map(attribute))),
        ("capacity", map(map(quantity))),
    ];
    let fields = fields.map(|(name, decl)| (name.to_owned(), decl));
    let device = Arc::new(Decl::object("kubernetes.DRADevice", fields));
    Env::new()
        .variable("device", device)
        .with_declared_sizes()
        .with_entries_as_fields()
}

/// Compiles a selector.
///
/// # Errors
/// Why it is none, in upstream's words.
pub fn compile(expression: &str) -> Result<Program, String> {
    static ENV: LazyLock<Env> = LazyLock::new(env);
    let program = Program::compile(expression, &ENV);
    let program = program.map_err(|e| format!("compilation failed: {e}"))?;
    match program.result() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!(
            "must evaluate to bool or the unknown type, not {other}"
        )),
    }
}

/// Whether a run of it may cost more than one may, by the sizes that devices may have.
pub fn is_too_complex(program: &Program) -> bool {
    program.cost().max > COST_LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_selectors_are_cheap_and_nested_loops_are_not() {
        for good in [
            "device.driver == 'gpu.example.com'",
            "'gpu.example.com' in device.attributes && device.attributes['gpu.example.com'].model == 'a'",
            "device.capacity['gpu.example.com'].memory.compareTo(quantity('10Gi')) >= 0",
            "device.attributes['gpu.example.com'].version.compareTo(semver('1.2.3')) > 0",
            "device.attributes['gpu.example.com'].name.matches('^a.*b$')",
            "device.attributes['gpu.example.com'].exists(a, a == 'one')",
        ] {
            let program = compile(good).unwrap_or_else(|e| panic!("{good}: {e}"));
            assert!(!is_too_complex(&program), "{good}: {:?}", program.cost());
        }
        let deep = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                    device.attributes.all(d, device.attributes.all(e, a + b + c + d + e != '')))))";
        let program = compile(deep).unwrap_or_else(|e| panic!("{e}"));
        assert!(is_too_complex(&program), "{:?}", program.cost());
        let none = compile("device.driver").err().unwrap_or_default();
        assert_eq!(
            none,
            "must evaluate to bool or the unknown type, not string"
        );
    }
}
