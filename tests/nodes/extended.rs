//! Extended resources that a class of devices stands for: a pod asks for an amount, as of a device
//! plugin's, and a driver of dynamic resources gives the devices.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::context::{STAY, pod};

use crate::drivers::{NODE, ROOT, device_goes_on, plugin};

/// One device, and a class by which it is an amount of a resource.
fn offer(cx: &Context, driver: &str, resource: &str) -> Result<()> {
    let selector = format!("device.driver == '{driver}'");
    for object in [
        json!({ "kind": "ResourceSlice", "metadata": { "name": driver },
            "spec": { "driver": driver, "nodeName": NODE,
                "pool": { "name": "pool", "generation": 1, "resourceSliceCount": 1 },
                "devices": [{ "name": "device" }] } }),
        json!({ "kind": "DeviceClass", "metadata": { "name": driver },
            "spec": { "extendedResourceName": resource,
                "selectors": [{ "cel": { "expression": selector } }] } }),
    ] {
        let mut object = object;
        object["apiVersion"] = "resource.k8s.io/v1".into();
        cx.apply_json(&object)?;
    }
    Ok(())
}

fn user(name: &str, resource: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { resource: 1 } });
    pod
}

/// The claim that the scheduler made for a pod, as the pod's status names it.
fn claim_of(cx: &Context, pod: &str) -> Result<String> {
    let path = ".status.extendedResourceClaimStatus.resourceClaimName";
    cx.field(&format!("pod {pod}"), path)
}

pub fn an_amount_of_a_class_comes_from_its_driver(cx: &Context) -> Result<()> {
    let name = format!("{}.tests", cx.ns);
    let resource = format!("{}.example.com/gadget", cx.ns);
    let running = plugin(cx, &["dra", &name, ROOT, &format!("/run/{name}"), "v1"])?;
    running.0.line(|l| l.contains("registered: true"))?;
    offer(cx, &name, &resource)?;
    cx.apply_json(&user("first", &resource))?;
    cx.wait_ready("first")?;
    ensure!(cx.field("pod first", ".spec.nodeName")? == NODE);
    let claim = claim_of(cx, "first")?;
    ensure!(claim.starts_with("first-extended-resources-"), "{claim}");
    let got = cx.json(&format!("get resourceclaim {claim}"))?;
    let mark = "resource.kubernetes.io/extended-resource-claim";
    ensure!(got["metadata"]["annotations"][mark] == "true", "{got}");
    ensure!(
        got["metadata"]["ownerReferences"][0]["name"] == "first",
        "{got}"
    );
    let result = &got["status"]["allocation"]["devices"]["results"][0];
    ensure!(
        result["device"] == "device" && result["driver"] == name.as_str(),
        "{got}"
    );
    ensure!(got["status"]["reservedFor"][0]["name"] == "first", "{got}");
    // Its container has the request, and the device.
    let status = cx.json("get pod first")?["status"]["extendedResourceClaimStatus"].clone();
    let mapping = &status["requestMappings"][0];
    ensure!(
        mapping["containerName"] == "main"
            && mapping["resourceName"] == resource.as_str()
            && mapping["requestName"] == result["request"],
        "{status}"
    );
    let own = cx.sh("first", "echo $CLAIM; test -c /dev/claimed && echo there")?;
    ensure!(own == format!("{claim}\nthere\n"), "{own}");

    // There is one; the next pod waits until it is given back.
    let next = device_goes_on(cx, &running, &claim, &user("second", &resource), claim_of)?;

    cx.kubectl("delete pod second --now")?;
    running.0.line(|l| l == format!("unprepare: {next}"))?;
    cx.wait(&format!("resourceclaim/{next}"), "delete")?;
    drop(running);
    cx.kubectl(&format!("delete deviceclass {name}"))?;
    cx.wait(&format!("resourceslice/{name}"), "delete")?;
    let line =
        format!("rm -r /run/{name} {ROOT}/plugins/{name} {ROOT}/plugins_registry/{name}-reg.sock");
    cx.cluster.in_node(NODE, &line)?.ok().map(drop)
}
