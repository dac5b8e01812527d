//! Selectors as text, and what they select.

use serde_json::json;

use super::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|p| p.split_once('='))
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

#[test]
fn selectors_match_as_documented() {
    for (selector, own, expected) in [
        ("", "a=b", true),
        ("a=b", "a=b", true),
        ("a==b,c!=d", "a=b", true),
        ("a!=b", "a=b", false),
        ("a in (x, y)", "a=y", true),
        ("a notin (x)", "b=1", true),
        ("a", "a=", true),
        ("!a", "b=1", true),
        ("n>3,n<5", "n=4", true),
        ("n>3", "n=x", false),
        ("a=", "a=", true),
        ("a in (x,)", "a=", true),
        ("x.y/z=1", "x.y/z=1", true),
    ] {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(
            parsed.matches(&labels(own)),
            expected,
            "{selector} on {own}"
        );
        assert_eq!(
            LabelSelector::parse(&parsed.to_string()).as_ref(),
            Ok(&parsed),
            "{selector}"
        );
    }
    for bad in [
        "a=b,", ",", "a in x", "a in (x", "=b", "!", "a=b c", "a>x", "-a=b", "a=b=c", "a in ()x",
    ] {
        assert!(LabelSelector::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_every_match_has_is_found() {
    let values = |all: &[&str]| all.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    for (selector, expected) in [
        ("", None),
        ("a!=b,c notin (d),e,!f,n>1", None),
        ("a,b=c", Some(("b", values(&["c"])))),
        ("a=", Some(("a", values(&[""])))),
        ("a in (x,y),b=c,d=e", Some(("b", values(&["c"])))),
        ("a in (x,y),b in (z)", Some(("b", values(&["z"])))),
        ("a in (x,y)", Some(("a", values(&["x", "y"])))),
        ("a in (x,y,z)", None),
    ] {
        let parsed = LabelSelector::parse(selector).expect("selector");
        let demanded = parsed.demanded(2);
        let demanded = demanded.map(|(key, values)| (key, values.to_vec()));
        assert_eq!(demanded, expected, "{selector}");
    }
}

#[test]
fn object_selectors_are_read() {
    let s = json!({ "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "c", "operator": "Exists" }] });
    let parsed = LabelSelector::from_json(&s).expect("selector");
    assert!(parsed.matches(&labels("a=b,c=1")));
    assert!(!parsed.matches(&labels("a=b")));
    assert!(
        LabelSelector::from_json(&json!({}))
            .expect("all")
            .matches(&labels(""))
    );
    assert!(
        !LabelSelector::from_json(&Value::Null)
            .expect("none")
            .matches(&labels(""))
    );
    assert!(
        LabelSelector::from_json(&json!({ "matchExpressions": [{ "key": "a", "operator": "X" }] }))
            .is_err()
    );
}

#[test]
fn field_selectors_are_read() {
    let s = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").expect("selector");
    assert_eq!(s.exact("spec.nodeName"), Some("n1"));
    let read = |f: &str| {
        (if f == "spec.nodeName" {
            "n1"
        } else {
            "Running"
        })
        .into()
    };
    assert!(s.matches(read));
    assert_eq!(
        FieldSelector::parse(r"a=b\,c")
            .expect("escaped")
            .requirements[0]
            .value,
        "b,c"
    );
    assert!(FieldSelector::parse("a").is_err());
    assert_eq!(s.to_string(), "spec.nodeName=n1,status.phase!=Failed");
}

#[test]
fn terms_of_nodes_select_by_labels_and_name() {
    let values = |all: &[&str]| -> Vec<String> { all.iter().map(|v| (*v).to_owned()).collect() };
    let (ssd, names) = (values(&["ssd"]), values(&["n", "m"]));
    let disk: Required<'_> = ("disk", "In", Some(ssd.as_slice()));
    let named: Required<'_> = ("metadata.name", "In", Some(names.as_slice()));
    let others = values(&["m", "o"]);
    let other: Required<'_> = ("metadata.name", "In", Some(others.as_slice()));
    let node: BTreeMap<String, String> = [("disk".to_owned(), "ssd".to_owned())].into();
    for (labels, fields, wanted, only) in [
        (vec![disk], vec![], true, None),
        (vec![disk], vec![named], true, Some(vec!["n", "m"])),
        (vec![], vec![named], true, Some(vec!["n", "m"])),
        (vec![], vec![named, other], false, Some(vec!["m"])),
        (vec![("disk", "DoesNotExist", None)], vec![], false, None),
        (
            vec![],
            vec![("metadata.name", "NotIn", Some(names.as_slice()))],
            false,
            None,
        ),
        // Neither what is empty nor what cannot be read.
        (vec![], vec![], false, None),
        (vec![disk, ("disk", "Is", None)], vec![], false, None),
    ] {
        let term = NodeTerm::new(labels, fields);
        assert_eq!(
            (term.matches("n", &node), term.names()),
            (wanted, only),
            "{term:?}"
        );
    }
}
