//! Claims of devices: what may be said in their status, and by whom.

use super::*;

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Lets a user do this with what belongs to claims; of a driver, by its name.
async fn let_do(s: &ApiServer, user: &str, verb: &str, resource: &str, name: Option<&str>) {
    let mut rule =
        json!({ "apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": [verb] });
    if let Some(name) = name {
        rule["resourceNames"] = json!([name]);
    }
    let own = format!("{user}-{verb}-{resource}").replace(['/', ':'], "-");
    // What a claim gets is not for one namespace to say.
    let (kind, of) = match resource {
        "resourceclaims/binding" => ("ClusterRole", RBAC.to_owned()),
        _ => ("Role", format!("{RBAC}/namespaces/default")),
    };
    let mut role = role(&own, "", &[]);
    role["kind"] = kind.into();
    role["rules"] = json!([rule]);
    make(s, &format!("{of}/{}s", kind.to_lowercase()), role).await;
    let mut given = binding(&own, kind, &own, user);
    given["kind"] = format!("{kind}Binding").into();
    make(s, &format!("{of}/{}bindings", kind.to_lowercase()), given).await;
}

#[tokio::test]
async fn who_may_write_a_claims_status_may_not_write_all_of_it() {
    let (s, _) = secured().await;
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": { "name": "c" },
        "spec": { "devices": { "requests": [
            { "name": "gpu", "exactly": { "deviceClassName": "gpu" } }] } },
    });
    make(&s, CLAIMS, claim).await;
    let uri = format!("{CLAIMS}/c/status");
    let write = |user: UserInfo, status: Value| {
        let (s, uri) = (s.clone(), uri.clone());
        async move {
            let patch = json!({ "status": status });
            by(&s, &user, Method::PATCH, &uri, patch).await
        }
    };

    let jo = UserInfo::new("jo", &[]);
    let on_n = json!({ "nodeSelectorTerms": [{ "matchFields": [
        { "key": "metadata.name", "operator": "In", "values": ["n"] }] }] });
    let allocation = json!({ "allocation": { "nodeSelector": on_n, "devices": { "results": [
        { "request": "gpu", "driver": "d.example", "pool": "p", "device": "a" }] } } });
    let_do(&s, "jo", "patch", "resourceclaims/status", None).await;
    let (code, refused) = write(jo.clone(), allocation.clone()).await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        message(&refused),
        "ResourceClaim.resource.k8s.io \"c\" is invalid: status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"patch\" permission: resourceclaims.resource.k8s.io is forbidden: User \"jo\" cannot patch resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
    );
    let_do(&s, "jo", "patch", "resourceclaims/binding", None).await;
    let (code, written) = write(jo.clone(), allocation).await;
    assert_eq!(code, 200, "{written}");

    let said = json!({ "devices": [{ "driver": "d.example", "pool": "p", "device": "a" }] });
    let (code, refused) = write(jo.clone(), said.clone()).await;
    assert_eq!(code, 422, "{refused}");
    let why = "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:patch]\" permission";
    assert!(message(&refused).contains(why), "{refused}");
    let driver = Some("d.example");
    let verb = "arbitrary-node:patch";
    let_do(&s, "jo", verb, "resourceclaims/driver", driver).await;
    assert_eq!(write(jo.clone(), said.clone()).await.0, 200);

    // A driver on the claim's node, as its token says, has a verb of its own.
    let mut on_node = UserInfo::of_service_account("default", "driver", "");
    let name = on_node.name.clone();
    let_do(&s, &name, "patch", "resourceclaims/status", None).await;
    let verb = "associated-node:patch";
    let_do(&s, &name, verb, "resourceclaims/driver", driver).await;
    let nothing = json!({ "devices": null });
    assert_eq!(write(on_node.clone(), nothing.clone()).await.0, 422);
    on_node.extra.insert(NODE_NAME.into(), vec!["m".into()]);
    assert_eq!(write(on_node.clone(), nothing.clone()).await.0, 422);
    on_node.extra.insert(NODE_NAME.into(), vec!["n".into()]);
    let (code, written) = write(on_node, nothing).await;
    assert_eq!(code, 200, "{written}");
}
