//! Who may do what: credentials, rights, tokens.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tests::{Cluster, Context, context};

/// The cluster's CA, as the administrator's kubeconfig has it.
fn ca_pem(cluster: &Cluster) -> Result<String> {
    let file = cluster.scratch()?.join("ca.crt");
    let text = cluster
        .kubectl(
            "config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}'",
        )?
        .ok()?;
    let mut decode = std::process::Command::new("base64");
    decode.arg("-d");
    let pem = tests::command::run(decode, &text)?.ok()?;
    std::fs::write(file, &pem)?;
    Ok(pem)
}

fn with_token(cluster: &Cluster, token: &str) -> Result<kube::Client> {
    let ca = ca_pem(cluster)?;
    Ok(cluster.block_on(client::from_parts(
        &cluster.server_url(),
        &ca,
        client::Credential::Token(token),
        "tests",
    ))?)
}

/// A client that says nothing of itself.
fn anonymous(cluster: &Cluster) -> Result<kube::Client> {
    let mut file = Kubeconfig::read_from(cluster.kubeconfig())?;
    for user in &mut file.auth_infos {
        user.auth_info = None;
    }
    let client = cluster.block_on(async {
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        Ok::<_, anyhow::Error>(kube::Client::try_from(config)?)
    })?;
    Ok(client)
}

fn get(cluster: &Cluster, client: kube::Client, path: &str) -> Result<(u16, Value)> {
    context::ask(
        cluster,
        client,
        Method::GET,
        path,
        "application/json",
        Vec::new(),
    )
}

pub fn credentials_are_checked(cx: &Context) -> Result<()> {
    let cluster = cx.cluster;
    let nobody = anonymous(cluster)?;
    let (code, status) = get(
        cluster,
        nobody.clone(),
        "/api/v1/namespaces/default/secrets",
    )?;
    ensure!(
        code == 403 && status["reason"] == "Forbidden",
        "{code} {status:#}"
    );
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains(r#"secrets is forbidden: User "system:anonymous" cannot list resource "secrets" in API group "" in the namespace "default""#),
        "{message}"
    );
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" } });
    let path = format!("/api/v1/namespaces/{}/configmaps", cx.ns);
    let (code, _) = context::ask(
        cluster,
        nobody.clone(),
        Method::POST,
        &path,
        "application/json",
        body.to_string().into(),
    )?;
    ensure!(code == 403, "anonymous wrote: {code}");
    // Health and version are for everybody.
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let (code, body) = get(cluster, nobody.clone(), path)?;
        ensure!(code == 200, "{path}: {code} {body}");
    }
    for token in ["wrong", "a.b.c", "abcdef.0123456789abcdef"] {
        let (code, status) = get(
            cluster,
            with_token(cluster, token)?,
            "/api/v1/namespaces/default/secrets",
        )?;
        ensure!(
            code == 401 && status["reason"] == "Unauthorized",
            "{token}: {code} {status:#}"
        );
    }
    let output = cx
        .run("--token=wrong --kubeconfig=/dev/null --insecure-skip-tls-verify get pods")?
        .failed()?;
    ensure!(!output.is_empty(), "silent");
    Ok(())
}

pub fn rights_can_be_asked_for(cx: &Context) -> Result<()> {
    ensure!(cx.kubectl("auth can-i create deployments")?.trim() == "yes");
    ensure!(cx.kubectl("auth can-i '*' '*' --all-namespaces")?.trim() == "yes");
    let asked = cx.run("auth can-i list secrets --as=somebody")?;
    ensure!(asked.code == 1 && asked.out.trim() == "no", "{asked:?}");
    let list = cx.kubectl("auth can-i --list")?;
    ensure!(list.contains("*.*") && list.contains("[*]"), "{list}");
    let me = cx.kubectl("auth whoami")?;
    ensure!(
        me.contains("tiphys-admin") && me.contains("system:masters"),
        "{me}"
    );
    Ok(())
}

pub fn a_service_account_has_what_its_role_grants(cx: &Context) -> Result<()> {
    let ns = &cx.ns;
    cx.kubectl("create serviceaccount reader")?;
    cx.kubectl("create role reads --verb=get,list,watch --resource=configmaps")?;
    cx.kubectl("create configmap seen --from-literal=a=1")?;
    let token = cx.kubectl("create token reader")?;
    let client = with_token(cx.cluster, token.trim())?;
    let path = format!("/api/v1/namespaces/{ns}/configmaps/seen");
    let (code, status) = get(cx.cluster, client.clone(), &path)?;
    ensure!(code == 403, "before the grant: {code} {status}");
    let user = format!("system:serviceaccount:{ns}:reader");
    ensure!(
        status["message"]
            .as_str()
            .is_some_and(|m| m.contains(&user)),
        "{status:#}"
    );
    cx.kubectl(&format!(
        "create rolebinding reads --role=reads --serviceaccount={ns}:reader"
    ))?;
    let (code, status) = get(cx.cluster, client.clone(), &path)?;
    ensure!(code == 200, "after the grant: {code} {status}");
    ensure!(
        cx.kubectl(&format!("auth can-i get configmaps --as={user}"))?
            .trim()
            == "yes"
    );
    let (code, _) = context::ask(
        cx.cluster,
        client.clone(),
        Method::DELETE,
        &path,
        "application/json",
        Vec::new(),
    )?;
    ensure!(code == 403, "deleted without a right: {code}");
    let (code, _) = get(
        cx.cluster,
        client.clone(),
        "/api/v1/namespaces/default/configmaps",
    )?;
    ensure!(code == 403, "another namespace: {code}");
    cx.kubectl("delete rolebinding reads")?;
    let (code, _) = get(cx.cluster, client, &path)?;
    ensure!(code == 403, "after the withdrawal: {code}");
    Ok(())
}

pub fn nobody_grants_more_than_they_have(cx: &Context) -> Result<()> {
    let ns = &cx.ns;
    cx.kubectl("create serviceaccount granter")?;
    cx.kubectl("create role grants --verb=get,list,create --resource=roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io")?;
    cx.kubectl(&format!(
        "create rolebinding grants --role=grants --serviceaccount={ns}:granter"
    ))?;
    let user = format!("system:serviceaccount:{ns}:granter");
    let output = cx.refused(&format!(
        "create role more --verb=get --resource=secrets --as={user}"
    ))?;
    ensure!(
        output.contains("is attempting to grant RBAC permissions not currently held"),
        "{output}"
    );
    let output = cx.refused(&format!(
        "create rolebinding more --clusterrole=admin --user=me --as={user}"
    ))?;
    ensure!(
        output.contains("is attempting to grant RBAC permissions not currently held"),
        "{output}"
    );
    cx.kubectl("create role small --verb=list --resource=roles.rbac.authorization.k8s.io")
        .map(drop)?;
    cx.kubectl(&format!(
        "create rolebinding small --role=small --user=me --as={user}"
    ))
    .map(drop)
}

pub fn tokens_are_made_and_reviewed(cx: &Context) -> Result<()> {
    let ns = &cx.ns;
    cx.kubectl("create serviceaccount sa")?;
    let token = cx
        .kubectl("create token sa --duration=1h")?
        .trim()
        .to_owned();
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (code, answer) = cx.api(Method::POST, path, &review)?;
    ensure!(
        code == 201 && answer["status"]["authenticated"] == true,
        "{code} {answer:#}"
    );
    ensure!(
        answer["status"]["user"]["username"] == format!("system:serviceaccount:{ns}:sa"),
        "{answer:#}"
    );
    let groups = answer["status"]["user"]["groups"]
        .as_array()
        .context("no groups")?;
    ensure!(
        groups.contains(&json!(format!("system:serviceaccounts:{ns}"))),
        "{answer:#}"
    );
    // The account's end is the token's.
    cx.kubectl("delete serviceaccount sa")?;
    let (_, answer) = cx.api(Method::POST, path, &review)?;
    ensure!(answer["status"]["authenticated"] != true, "{answer:#}");
    let output = cx.refused("create token none")?;
    ensure!(
        output.contains("serviceaccounts \"none\" not found"),
        "{output}"
    );
    Ok(())
}
