//! `/debug/flags/v`: how much is logged, changed while the process runs and until it ends. As upstream,
//! by a number; and by a filter such as `warn,kubelet=debug`.

use std::sync::OnceLock;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use crate::page::{PageRequest, text};

pub const PATH: &str = "/debug/flags/v";

/// Sets the filter of this process's logs, or says why it cannot be read.
type Set = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

static SET: OnceLock<Set> = OnceLock::new();

/// Says by what the filter is set; the first word counts.
pub fn set_by(set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    let _ = SET.set(Box::new(set));
}

/// The filter of a wish: of upstream's numbers, up to 3 what operators want to know, up to 5 what is
/// needed to find faults, above that everything.
pub fn filter(wish: &str) -> &str {
    match wish.trim().parse::<i32>() {
        Ok(..=3) => "info",
        Ok(4..=5) => "debug",
        Ok(6..) => "trace",
        Err(_) => wish.trim(),
    }
}

pub fn answer(asked: &PageRequest<'_>) -> Response<Bytes> {
    if *asked.method != Method::PUT {
        return text(StatusCode::NOT_ACCEPTABLE, "unsupported http method\n");
    }
    let Some(set) = SET.get() else {
        return text(
            StatusCode::NOT_IMPLEMENTED,
            "the logs of this process cannot be changed\n",
        );
    };
    let wish = String::from_utf8_lossy(&asked.body);
    match set(filter(&wish)) {
        Ok(()) => {
            let done = format!(
                "successfully set klog.logging.verbosity to {}\n",
                wish.trim()
            );
            text(StatusCode::OK, done)
        }
        Err(why) => {
            let refused = format!("failed set klog.logging.verbosity {}: {why}\n", wish.trim());
            text(StatusCode::BAD_REQUEST, refused)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_levels_and_all_else_is_a_filter() {
        for (wish, want) in [
            ("0", "info"),
            ("2\n", "info"),
            ("4", "debug"),
            ("10", "trace"),
            ("warn,kubelet=debug", "warn,kubelet=debug"),
        ] {
            assert_eq!(filter(wish), want);
        }
    }

    #[test]
    fn a_wish_is_put_and_a_bad_one_refused() {
        set_by(|filter| match filter {
            "debug" => Ok(()),
            other => Err(format!("{other} is not a filter")),
        });
        let put = |method: &Method, body: &'static str| {
            let asked = PageRequest {
                method,
                path: PATH,
                query: "",
                accept: None,
                body: Bytes::from_static(body.as_bytes()),
            };
            answer(&asked).status().as_u16()
        };
        assert_eq!(put(&Method::PUT, "4"), 200);
        assert_eq!(put(&Method::PUT, "so much"), 400);
        assert_eq!(put(&Method::GET, ""), 406);
    }
}
