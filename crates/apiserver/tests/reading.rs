//! Every combination of what lists, watches and reads may be asked with, on a server over TLS: what is
//! refused, in which words, and what the others show.

mod common;
#[path = "common/over_tls.rs"]
mod over_tls;

use common::ships::watch;
use http::{Method, Request};
use over_tls::{Running, ask, start};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn get(running: &Running, path: &str) -> (u16, Value) {
    ask(&running.admin().await, Method::GET, path, &Value::Null).await
}

async fn map(running: &Running, name: &str) -> Value {
    let body = json!({"metadata": {"name": name, "labels": {"of": "test"}}});
    let (code, made) = ask(&running.admin().await, Method::POST, MAPS, &body).await;
    assert_eq!(code, 200, "{made}");
    made
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice);
    let names = items.unwrap_or_default().iter();
    names
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

fn number(reader: &str, text: &str, why: &str) -> String {
    format!("strconv.{reader}: parsing {text:?}: {why}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_in_upstreams_words() {
    let running = start(|_| {}).await;
    let no_number = number("ParseUint", "abc", "invalid syntax");
    let rv = format!("resourceVersion: Invalid value: \"abc\": {no_number}");
    let negative = number("ParseUint", "-1", "invalid syntax");
    let large = number("ParseUint", "99999999999999999999", "value out of range");
    let limit = number("ParseInt", "x", "invalid syntax");
    let match_without = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
    let with_continue = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided";
    let zero = "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
    let other = "resourceVersionMatch: Unsupported value: \"Other\": supported values: \"Exact\", \"NotOlderThan\", \"\"";
    let initial = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
    let requires = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let unless = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let only =
        "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
    let bad_token =
        "invalid continue token: continue key is not valid: illegal base64 data at input byte 0";
    let cases = [
        (
            "resourceVersion=abc",
            400,
            format!("invalid resource version: {rv}"),
        ),
        ("resourceVersion=-1", 400, negative),
        ("resourceVersion=99999999999999999999", 400, large),
        ("resourceVersion=abc&watch=1", 500, rv),
        ("limit=x", 400, limit.clone()),
        ("watch=1&timeoutSeconds=x", 400, limit),
        ("resourceVersionMatch=Exact", 422, match_without.into()),
        (
            "resourceVersionMatch=NotOlderThan",
            422,
            match_without.into(),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            zero.into(),
        ),
        (
            "resourceVersionMatch=Other&resourceVersion=1",
            422,
            other.into(),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=1&continue=x",
            422,
            with_continue.into(),
        ),
        ("sendInitialEvents=false", 422, initial.into()),
        ("continue=.", 400, bad_token.into()),
        ("watch=1&sendInitialEvents=true", 422, requires.into()),
        (
            "watch=1&sendInitialEvents=false&resourceVersionMatch=Exact&resourceVersion=1",
            422,
            only.into(),
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            422,
            unless.into(),
        ),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
            422,
            with_continue.into(),
        ),
        (
            "resourceVersion=1000000",
            504,
            "Too large resource version: 1000000, current: ".into(),
        ),
        (
            "resourceVersion=1000000&limit=1",
            504,
            "Too large resource version: 1000000, current: ".into(),
        ),
        (
            "resourceVersion=1000000&resourceVersionMatch=Exact",
            504,
            "Too large resource version: 1000000".into(),
        ),
        (
            "labelSelector=a%3D%3D%3Db",
            400,
            "unable to parse requirement".into(),
        ),
        (
            "fieldSelector=spec.none%3Da",
            400,
            "\"spec.none\" is not a known field selector: only".into(),
        ),
    ];
    for (query, code, words) in cases {
        let (had, said) = common::get(&running.server, &format!("{MAPS}?{query}")).await;
        let message = said["message"].as_str().unwrap_or_default();
        assert_eq!(had, code, "{query}: {message}");
        assert!(message.contains(&words), "{query}: {message}");
    }
    let one = "/api/v1/namespaces/default?resourceVersion=abc";
    assert_eq!(common::get(&running.server, one).await.0, 500);
    let one = "/api/v1/namespaces/default?resourceVersion=1000000";
    assert_eq!(common::get(&running.server, one).await.0, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_asked_shows_the_state_that_is_meant() {
    let running = start(|_| {}).await;
    for name in ["m1", "m2", "m3"] {
        map(&running, name).await;
    }
    let of = format!("{MAPS}?labelSelector=of%3Dtest");
    let (_, all) = get(&running, &of).await;
    let rv = all["metadata"]["resourceVersion"]
        .as_str()
        .expect("one")
        .to_owned();
    map(&running, "m4").await;
    let (before, now) = (vec!["m1", "m2", "m3"], vec!["m1", "m2", "m3", "m4"]);
    for (query, wanted) in [
        (String::new(), &now),
        ("&limit=-1".into(), &now),
        (format!("&resourceVersion={rv}"), &now),
        (
            format!("&resourceVersion={rv}&resourceVersionMatch=NotOlderThan"),
            &now,
        ),
        (
            format!("&resourceVersion={rv}&resourceVersionMatch=NotOlderThan&limit=10"),
            &now,
        ),
        (
            format!("&resourceVersion={rv}&resourceVersionMatch=Exact"),
            &before,
        ),
        (
            format!("&resourceVersion={rv}&resourceVersionMatch=Exact&limit=10"),
            &before,
        ),
        // As it was before there was a way to say it.
        (format!("&resourceVersion={rv}&limit=10"), &before),
        (
            "&resourceVersion=0&resourceVersionMatch=NotOlderThan".into(),
            &now,
        ),
    ] {
        let (code, list) = get(&running, &format!("{of}{query}")).await;
        assert_eq!((code, names(&list)), (200, wanted.clone()), "{query}");
    }
    let (_, page) = get(&running, &format!("{of}&resourceVersion={rv}&limit=2")).await;
    assert_eq!(names(&page), ["m1", "m2"]);
    assert_eq!(page["metadata"]["resourceVersion"], rv.as_str());
    assert!(
        page["metadata"].get("remainingItemCount").is_none(),
        "with a selector nobody counts"
    );
    let token = page["metadata"]["continue"]
        .as_str()
        .expect("more")
        .to_owned();
    let next = format!("{of}&continue={token}");
    let (code, said) = get(&running, &format!("{next}&resourceVersion={rv}")).await;
    let words = "specifying resource version is not allowed when using continue";
    assert_eq!((code, said["message"].as_str()), (400, Some(words)));
    for query in ["", "&resourceVersion=0", "&limit=5"] {
        let (code, page) = get(&running, &format!("{next}{query}")).await;
        assert_eq!((code, names(&page)), (200, vec!["m3"]), "{query}");
        assert_eq!(page["metadata"]["resourceVersion"], rv.as_str());
        assert!(page["metadata"].get("continue").is_none());
    }
    let (_, page) = get(&running, &format!("{MAPS}?limit=1")).await;
    let left = page["metadata"]["remainingItemCount"].as_u64();
    let (_, whole) = get(&running, MAPS).await;
    assert_eq!(left, Some(names(&whole).len() as u64 - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_begin_where_they_are_asked_to() {
    let running = start(|_| {}).await;
    let made = map(&running, "a").await;
    let rv = made["metadata"]["resourceVersion"]
        .as_str()
        .expect("one")
        .to_owned();
    let server = &running.server;
    let of = format!("{MAPS}?watch=1&labelSelector=of%3Dtest");
    let end = "k8s.io/initial-events-end";
    // What begins with the objects of now ends them with a bookmark, also where it was not asked
    // for by that name.
    for query in [
        "&allowWatchBookmarks=true",
        "&allowWatchBookmarks=true&resourceVersion=0",
        "&allowWatchBookmarks=yes&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        &format!(
            "&allowWatchBookmarks=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={rv}"
        ),
    ] {
        let mut events = watch(server, &format!("{of}{query}")).await;
        let first = events.next().await.expect("an object");
        assert_eq!(
            (&first["type"], &first["object"]["metadata"]["name"]),
            (&json!("ADDED"), &json!("a")),
            "{query}"
        );
        let second = events.next().await.expect("a bookmark");
        assert_eq!(second["type"], "BOOKMARK", "{query}");
        assert_eq!(second["object"]["metadata"]["annotations"][end], "true");
    }
    // Others see what comes.
    let mut late = Vec::new();
    for query in [
        format!("&resourceVersion={rv}"),
        format!("&resourceVersion={rv}&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"),
        "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan".to_owned(),
    ] {
        late.push(watch(server, &format!("{of}{query}")).await);
    }
    map(&running, "b").await;
    // An object that leaves the selection is gone for who watches it, as it was.
    let patch = json!({"metadata": {"labels": {"of": "other"}}}).to_string();
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{MAPS}/b"))
        .header("content-type", "application/merge-patch+json")
        .body(patch.into_bytes())
        .expect("request");
    let changed: Value = running
        .admin()
        .await
        .request(request)
        .await
        .expect("changed");
    for events in &mut late {
        let added = events.next().await.expect("b comes");
        assert_eq!(
            (&added["type"], &added["object"]["metadata"]["name"]),
            (&json!("ADDED"), &json!("b"))
        );
        let gone = events.next().await.expect("b goes");
        assert_eq!(gone["type"], "DELETED");
        let meta = &gone["object"]["metadata"];
        assert_eq!(meta["labels"]["of"], "test");
        assert_eq!(
            meta["resourceVersion"],
            changed["metadata"]["resourceVersion"]
        );
    }
}
