//! `/tiphys/why`: why something is as it is, and what a change would do. The right to the path lets
//! one ask, not see: the answer is made of what the asker may read, by whoever is plugged in.

use api::Status;
use http::Response;
use serde_json::Value;

use crate::filters::authn::UserInfo;
use crate::hooks::{Explain, WhyQuestion};
use crate::http::body::Body;
use crate::http::negotiate::JSON;
use crate::http::request::Query;
use crate::http::respond::respond;

/// Changes that are supposed at once; each is a copy's change, and a person types them.
const SUPPOSITIONS: usize = 100;
const PARAMETERS: &str = "of, namespace and if";

fn read(query: &Query) -> Result<WhyQuestion, Status> {
    let known = |name: &str| matches!(name, "of" | "namespace" | "if");
    if let Some(other) = query.names().find(|name| !known(name)) {
        return Err(Status::bad_request(format!(
            "{other:?} is not a parameter of this path: it takes {PARAMETERS}"
        )));
    }
    let asked = WhyQuestion {
        of: query.get("of").map(str::to_owned),
        namespace: query.get("namespace").unwrap_or("default").to_owned(),
        // A plus that was not encoded is a space by now; no change has one of its own.
        suppose: query.all("if").map(|c| c.replace(' ', "+")).collect(),
    };
    if asked.of.is_none() && asked.suppose.is_empty() {
        return Err(Status::bad_request(
            "name what is asked about, such as of=pod/NAME, or suppose a change with if",
        ));
    }
    if asked.suppose.len() > SUPPOSITIONS {
        return Err(Status::bad_request(format!(
            "at most {SUPPOSITIONS} changes are supposed at once"
        )));
    }
    Ok(asked)
}

pub async fn answer(
    explain: &dyn Explain,
    query: &Query,
    user: &UserInfo,
) -> Result<Response<Body>, Status> {
    let answer: Value = explain.explain(read(query)?, user.clone()).await?;
    Ok(respond(200, JSON, answer.to_string()))
}
