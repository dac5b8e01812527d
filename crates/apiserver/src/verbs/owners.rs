//! Owners that an object names twice: each counts once, and whoever sent them hears of it.

use std::collections::HashSet;

use serde_json::Value;

use crate::call::Call;
use crate::object::meta_mut;

/// Leaves each owner once, and warns of those that went. `admitted`: admission has been at the object.
pub fn once(call: &Call, object: &mut Value, admitted: bool) {
    let Some(owners) = meta_mut(object).get_mut("ownerReferences") else {
        return;
    };
    let twice = take_twice(owners);
    if twice.is_empty() {
        return;
    }
    let when = match admitted {
        true => " after mutating admission happens",
        false => "",
    };
    call.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        twice.join(", ")
    ));
}

/// Takes what equals one before it out of a list of owners; gives their UIDs.
fn take_twice(owners: &mut Value) -> Vec<String> {
    let mut twice = Vec::new();
    let Some(owners) = owners.as_array_mut().filter(|all| all.len() > 1) else {
        return twice;
    };
    let mut known = HashSet::new();
    owners.retain(|owner| {
        let is_new = known.insert(owner.clone());
        if !is_new {
            let uid = owner.get("uid").and_then(Value::as_str);
            twice.push(uid.unwrap_or_default().to_owned());
        }
        is_new
    });
    twice
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_owners_go_and_others_stay() {
        let owner = |uid: &str, name: &str| json!({ "uid": uid, "name": name });
        let (a, b) = (owner("1", "a"), owner("2", "b"));
        let other = owner("1", "c");
        let mut all = json!([a, b, a, other, b, b]);
        assert_eq!(take_twice(&mut all), ["1", "2", "2"]);
        assert_eq!(all, json!([a, b, other]));
        assert_eq!(take_twice(&mut all), Vec::<String>::new());
        assert_eq!(take_twice(&mut Value::Null), Vec::<String>::new());
    }
}
