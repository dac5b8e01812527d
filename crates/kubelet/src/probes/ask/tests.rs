//! What probes hear, and what they make of it.

use super::*;

#[test]
fn ports_are_found_by_name() {
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c", "ports": [{"name": "http", "containerPort": 8080}]
    }))
    .unwrap();
    assert_eq!(
        port(&container, &IntOrString::String("http".into())),
        Ok(8080)
    );
    assert_eq!(port(&container, &IntOrString::Int(1)), Ok(1));
    assert!(port(&container, &IntOrString::String("x".into())).is_err());
    assert!(port(&container, &IntOrString::Int(70_000)).is_err());
}
/// A server that answers each path with its status, and with where it leads; what it was asked
/// comes out.
async fn server(
    answers: &'static [(&'static str, u16, &'static str)],
) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (said, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                text.extend(byte);
            }
            let text = String::from_utf8(text).unwrap();
            let path = text.split(' ').nth(1).unwrap();
            let answer = answers.iter().find(|a| a.0 == path).unwrap();
            let location = answer.2.replace("PORT", &port.to_string());
            let head = format!(
                "HTTP/1.1 {} X\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nbody",
                answer.1
            );
            let _ = said.send(text);
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    (port, asked)
}

#[tokio::test]
async fn answers_that_lead_on_are_followed_on_the_same_host() {
    let (port, _asked) = server(&[
        ("/good", 200, ""),
        ("/to-good", 302, "/good"),
        ("/to-whole", 308, "http://127.0.0.1:PORT/to-good"),
        ("/bad", 500, ""),
        ("/to-bad", 307, "bad"),
        ("/to-other", 302, "http://localhost:PORT/bad"),
        ("/to-nowhere", 301, ""),
        ("/unchanged", 304, "/bad"),
        ("/round", 303, "/round"),
        ("/to-ftp", 302, "ftp://127.0.0.1/"),
    ])
    .await;
    let warned = "Probe terminated redirects, Response body: body";
    let at = format!("http://127.0.0.1:{port}");
    for (path, want) in [
        ("/good", Answer::Good),
        ("/to-good", Answer::Good),
        ("/to-whole", Answer::Good),
        (
            "/to-bad",
            Answer::Bad("HTTP probe failed with statuscode: 500".into()),
        ),
        ("/to-other", Answer::Warned(warned.into())),
        ("/to-nowhere", Answer::Warned(warned.into())),
        // A server sends no body with this one.
        (
            "/unchanged",
            Answer::Warned("Probe terminated redirects, Response body: ".into()),
        ),
        (
            "/round",
            Answer::Bad(format!("Get \"{at}/round\": stopped after 10 redirects")),
        ),
        (
            "/to-ftp",
            Answer::Bad(format!(
                "Get \"{at}/to-ftp\": unsupported protocol scheme \"ftp\""
            )),
        ),
    ] {
        let place = ProbeUrl::new(false, "127.0.0.1", port, path);
        assert_eq!(
            follow(place, &HTTPGetAction::default(), PROBE).await,
            want,
            "{path}"
        );
    }
}

#[tokio::test]
async fn all_headers_of_an_action_are_sent() {
    let (port, mut asked) = server(&[
        ("/a", 302, "/b"),
        ("/b", 302, "http://127.0.0.1:PORT/c"),
        ("/c", 200, ""),
    ])
    .await;
    let get: HTTPGetAction = serde_json::from_value(serde_json::json!({ "port": port,
        "httpHeaders": [
            { "name": "X-Word", "value": "one" }, { "name": "x-word", "value": "two" },
            { "name": "Host", "value": "shop.example" }, { "name": "Accept", "value": "" }]
    }))
    .unwrap();
    let place = ProbeUrl::new(false, "127.0.0.1", port, "/a");
    assert_eq!(follow(place, &get, PROBE).await, Answer::Good);
    for host in [
        "shop.example".to_owned(),
        "shop.example".to_owned(),
        format!("127.0.0.1:{port}"),
    ] {
        let text = asked.recv().await.unwrap().to_lowercase();
        let of = |name: &str| -> Vec<&str> {
            let lines = text.lines().filter_map(|l| l.split_once(": "));
            lines.filter(|l| l.0 == name).map(|l| l.1).collect()
        };
        assert_eq!(of("x-word"), ["one", "two"]);
        assert_eq!(of("host"), [host.as_str()]);
        assert_eq!(of("user-agent"), ["kube-probe/1.36"]);
        assert!(of("accept").is_empty());
    }
    let place = ProbeUrl::new(false, "127.0.0.1", port, "/c");
    assert_eq!(follow(place, &get, HOOK).await, Answer::Good);
    let text = asked.recv().await.unwrap().to_lowercase();
    assert!(
        text.contains("user-agent: kube-lifecycle/1.36\r\n"),
        "{text}"
    );
}
#[test]
fn commands_know_the_variables_that_the_spec_says() {
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c", "env": [
            { "name": "A", "value": "old" }, { "name": "A", "value": "1" },
            { "name": "B", "value": "$(A)" },
            { "name": "C", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]
    }))
    .unwrap();
    for (word, want) in [
        ("$(A)-$(A)", "1-1"),
        ("$(B)", "$(A)"),
        ("<$(C)>", "<>"),
        ("$$(A) $(D)", "$(A) $(D)"),
    ] {
        assert_eq!(expanded(&[word.to_owned()], &container), [want]);
    }
}
#[tokio::test]
async fn a_port_is_asked_by_connecting_to_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    // Nobody listens there, and the kernel gives it to nobody.
    let closed = 1;
    let container: Container = serde_json::from_value(serde_json::json!({
        "name": "c", "ports": [{ "name": "open", "containerPort": open }]
    }))
    .unwrap();
    let runtime = host::runtime::fake::Fake::new(0);
    let ask = async |tcp: serde_json::Value, host: &str| {
        let of: Probe = serde_json::from_value(serde_json::json!({ "tcpSocket": tcp })).unwrap();
        let target = Target {
            runtime: &runtime,
            container: &container,
            id: "id",
            host,
        };
        probe(&target, &of, Duration::from_secs(60)).await
    };
    let by_name = serde_json::json!({ "port": "open" });
    assert_eq!(ask(by_name, "127.0.0.1").await, Answer::Good);
    let own_host = serde_json::json!({ "port": open, "host": "127.0.0.1" });
    assert_eq!(ask(own_host, "192.0.2.1").await, Answer::Good);
    let refused = ask(serde_json::json!({ "port": closed }), "127.0.0.1").await;
    let text = format!("dial tcp 127.0.0.1:{closed}: connect: connection refused");
    assert_eq!(refused, Answer::Bad(text));
    let unknown = ask(serde_json::json!({ "port": "none" }), "127.0.0.1").await;
    assert!(matches!(unknown, Answer::Unknown(_)), "{unknown:?}");
}
