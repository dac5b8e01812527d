//! The life of one pod's certificate, from the first request to the next ones before it expires:
//! what was asked for, what came of it, and when to ask again. Pure.
//!
//! ```text
//! nothing ──ask──▶ asked ──issued──▶ fresh ──refresh──▶ fresh, and asked ──issued──▶ fresh
//!                    │                                        │
//!                    └───────── denied or failed ─────────────┴──▶ refused, for good
//! ```

use jiff::{SignedDuration, Timestamp};

/// A request that is not seen for so long was deleted.
const GONE_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// A certificate whose exchange is due for so long is reported.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// The most by which an exchange is put off, so that pods that began together do not all ask at
/// once.
const JITTER: SignedDuration = SignedDuration::from_mins(5);

/// What was asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingRequest {
    /// Name of the request.
    pub name: String,
    /// The key that it is for, PEM.
    pub key: String,
    /// When it was made.
    pub at: Timestamp,
}

/// A certificate that was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its key, PEM.
    pub key: String,
    /// The certificate and those that lead to its authority, PEM.
    pub chain: String,
    /// From then on another one is asked for.
    pub refresh_at: Timestamp,
    /// It is no longer good.
    pub not_after: Timestamp,
}

/// What is held for one source of one pod.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CertificateState {
    asked: Option<PendingRequest>,
    issued: Option<Issued>,
    /// Why there will never be one.
    refused: Option<String>,
    told_overdue: bool,
    told_expired: bool,
}

/// What a request shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// It is not seen.
    Missing,
    /// Its signer has not said anything.
    Pending,
    /// A certificate.
    Issued {
        /// PEM.
        chain: String,
        /// When the signer wants to be asked for another one.
        refresh_at: Timestamp,
        /// When it expires.
        not_after: Timestamp,
    },
    /// `Denied` or `Failed`, for good.
    Refused {
        /// Which of them.
        condition: &'static str,
        /// One word for programs.
        reason: String,
        /// For people.
        message: String,
    },
}

/// Something that people hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEvent {
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl CertificateState {
    /// Name of the request that is under way.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        self.asked.as_ref().map(|a| a.name.as_str())
    }

    /// Notes that another one was asked for.
    pub fn note(&mut self, asked: PendingRequest) {
        self.asked = Some(asked);
    }

    /// Takes in what the request under way shows. `jitter`: from 0 to 1. True: a certificate is to
    /// be asked for now.
    pub fn step(
        &mut self,
        seen: RequestStatus,
        now: Timestamp,
        jitter: f64,
        said: &mut Vec<CertificateEvent>,
    ) -> bool {
        if self.refused.is_some() {
            return false;
        }
        if let Some(asked) = self.asked.take() {
            match seen {
                RequestStatus::Missing if later(asked.at, GONE_AFTER) > now => {
                    self.asked = Some(asked)
                }
                RequestStatus::Missing => {}
                RequestStatus::Pending => self.asked = Some(asked),
                RequestStatus::Issued {
                    chain,
                    refresh_at,
                    not_after,
                } => {
                    self.issued = Some(Issued {
                        key: asked.key,
                        chain,
                        refresh_at: later(refresh_at, JITTER.mul_f64(jitter)),
                        not_after,
                    });
                    (self.told_overdue, self.told_expired) = (false, false);
                }
                RequestStatus::Refused {
                    condition,
                    reason,
                    message,
                } => {
                    let name = asked.name;
                    let was = condition.to_lowercase();
                    self.refused = Some(format!(
                        "PodCertificateRequest was permanently {was}: reason={reason:?} message={message:?}"
                    ));
                    said.push(CertificateEvent {
                        reason: condition.to_owned(),
                        message: format!(
                            "PodCertificateRequest {name} was {was}, reason={reason:?}, message={message:?}"
                        ),
                    });
                    return false;
                }
            }
        }
        let due = self.issued.as_ref().is_none_or(|i| i.refresh_at <= now);
        self.tell_delays(now, said);
        due && self.asked.is_none()
    }

    fn tell_delays(&mut self, now: Timestamp, said: &mut Vec<CertificateEvent>) {
        let Some(issued) = &self.issued else { return };
        let mut say = |told: &mut bool, is: bool, reason: &str, message: &str| {
            if is && !*told {
                *told = true;
                said.push(CertificateEvent {
                    reason: reason.into(),
                    message: message.into(),
                });
            }
        };
        let overdue = later(issued.refresh_at, OVERDUE) < now;
        say(
            &mut self.told_overdue,
            overdue,
            "CertificateOverdueForRefresh",
            "PodCertificate refresh overdue",
        );
        let expired = issued.not_after < now;
        say(
            &mut self.told_expired,
            expired,
            "CertificateExpired",
            "PodCertificate expired",
        );
    }

    /// The certificate to show; an expired one, where no other has come. Else why there is none.
    pub fn certificate(&self) -> Result<&Issued, String> {
        if let Some(why) = &self.refused {
            return Err(why.clone());
        }
        let none = || "credential bundle is not issued yet".to_owned();
        self.issued.as_ref().ok_or_else(none)
    }

    /// Whether there is nothing to show, and an answer may still come.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.asked.is_some() && self.issued.is_none() && self.refused.is_none()
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(minutes * 60).unwrap()
    }

    fn asked(name: &str, minutes: i64) -> PendingRequest {
        PendingRequest {
            name: name.into(),
            key: format!("key of {name}"),
            at: at(minutes),
        }
    }

    fn issued(chain: &str, refresh: i64, end: i64) -> RequestStatus {
        RequestStatus::Issued {
            chain: chain.into(),
            refresh_at: at(refresh),
            not_after: at(end),
        }
    }

    fn shown(held: &CertificateState) -> Result<(&str, &str), String> {
        held.certificate()
            .map(|i| (i.key.as_str(), i.chain.as_str()))
    }

    #[test]
    fn a_certificate_is_exchanged_before_it_expires() {
        let (mut held, mut said) = (CertificateState::default(), Vec::new());
        assert!(held.step(RequestStatus::Missing, at(0), 0.0, &mut said));
        assert!(!held.waits());
        held.note(asked("a", 0));
        // Not seen yet, then waiting for its signer.
        assert!(!held.step(RequestStatus::Missing, at(1), 0.0, &mut said));
        assert!(!held.step(RequestStatus::Pending, at(2), 0.0, &mut said) && held.waits());
        assert_eq!(
            shown(&held),
            Err("credential bundle is not issued yet".into())
        );
        assert!(!held.step(issued("A", 40, 60), at(3), 0.5, &mut said));
        assert_eq!(shown(&held), Ok(("key of a", "A")));
        // Put off by half of the jitter.
        assert!(!held.step(RequestStatus::Missing, at(42), 0.0, &mut said));
        assert!(held.step(RequestStatus::Missing, at(43), 0.0, &mut said));
        held.note(asked("b", 43));
        assert!(!held.step(RequestStatus::Pending, at(44), 0.0, &mut said));
        assert_eq!(shown(&held), Ok(("key of a", "A")));
        assert!(!held.step(issued("B", 80, 100), at(45), 0.0, &mut said));
        assert_eq!(shown(&held), Ok(("key of b", "B")));
        assert_eq!(said, []);
    }

    #[test]
    fn a_request_that_was_deleted_is_made_again_and_a_refusal_is_for_good() {
        let (mut held, mut said) = (CertificateState::default(), Vec::new());
        held.note(asked("a", 0));
        assert!(!held.step(RequestStatus::Missing, at(9), 0.0, &mut said));
        assert!(held.step(RequestStatus::Missing, at(11), 0.0, &mut said));
        held.note(asked("b", 11));
        let refused = RequestStatus::Refused {
            condition: "Denied",
            reason: "Policy".into(),
            message: "no".into(),
        };
        assert!(!held.step(refused, at(12), 0.0, &mut said));
        assert!(!held.step(RequestStatus::Missing, at(99), 0.0, &mut said) && !held.waits());
        let why = shown(&held).unwrap_err();
        assert_eq!(
            why,
            "PodCertificateRequest was permanently denied: reason=\"Policy\" message=\"no\""
        );
        let reasons: Vec<_> = said.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(reasons, ["Denied"]);
    }

    #[test]
    fn people_hear_once_of_what_is_overdue_and_of_what_has_expired() {
        let (mut held, mut said) = (CertificateState::default(), Vec::new());
        held.note(asked("a", 0));
        held.step(issued("A", 40, 60), at(1), 0.0, &mut said);
        assert!(held.step(RequestStatus::Missing, at(41), 0.0, &mut said));
        held.note(asked("b", 41));
        for minute in [45, 51, 55, 61, 70] {
            held.step(RequestStatus::Pending, at(minute), 0.0, &mut said);
        }
        let reasons: Vec<_> = said.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["CertificateOverdueForRefresh", "CertificateExpired"]
        );
        // It is shown all the same: the pod may know better.
        assert_eq!(shown(&held), Ok(("key of a", "A")));
    }
}
