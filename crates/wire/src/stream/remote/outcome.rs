//! How a remote command ended, and the `Status` that says so.

use serde_json::{Value, json};

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Its exit code, not zero.
    Exit(i32),
    /// It could not be run or followed.
    Error(String),
}

impl Outcome {
    /// As a `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Error(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {text}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        }
    }

    /// From what an error stream carried.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Value>(bytes) else {
            return Self::Error(String::from_utf8_lossy(bytes).into_owned());
        };
        if status["status"] == "Success" {
            return Self::Success;
        }
        let causes = status["details"]["causes"].as_array();
        let code = causes
            .into_iter()
            .flatten()
            .find(|c| c["reason"] == "ExitCode");
        let code = code.and_then(|c| c["message"].as_str()?.parse().ok());
        match code {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::Exit(code),
            _ => Self::Error(status["message"].as_str().unwrap_or_default().to_owned()),
        }
    }
}
