//! Writes: one transaction of etcd's each. What is hard is an answer that does not come: the
//! transaction may have been applied, and may even be applied later, by a member that wakes up.
//!
//! It is sent again only if that is harmless: when it compares the mod revision of an existing
//! key that it also changes, it can be applied once at most, however often it is sent. If the
//! second is applied, all is well. If it is refused, the first may be the reason; then the key's
//! state often shows it, and else the outcome is unknown (`fate`). A creation is not sent again:
//! applied late, after a deletion, it would bring the key back.
//!
//! Want of space is not a clear answer either: the write that crosses etcd's quota is applied and
//! answered with that error.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Failure, classify};
use super::inner::Inner;
use super::members::{LIMIT, PAUSE, led};
use super::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::proto::kv_client::KvClient;
use super::proto::request_op::Request;
use super::proto::response_op::Response;
use super::proto::{self, TxnRequest, TxnResponse};
use super::wire::{key_value, signed, unsigned};
use crate::contract::{Compare, KeyValue, Op, Outcome, Result, StoreError, Txn};

/// After this, and again after each, a silent member is asked whether it still follows the same
/// leader. A write that a dead leader was to order is lost in silence; one that a slow disk delays
/// is not.
const PATIENCE: Duration = Duration::from_millis(500);

fn compared(compare: &Compare) -> proto::Compare {
    let (key, result, target, union) = match compare {
        Compare::ModRevision(key, revision) => (
            key,
            CompareResult::Equal,
            CompareTarget::Mod,
            TargetUnion::ModRevision(signed(*revision)),
        ),
        Compare::Exists(key) => (
            key,
            CompareResult::Greater,
            CompareTarget::Create,
            TargetUnion::CreateRevision(0),
        ),
    };
    proto::Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
    }
}

fn key_of(compare: &Compare) -> &Bytes {
    let (Compare::ModRevision(key, _) | Compare::Exists(key)) = compare;
    key
}

fn op(request: Request) -> proto::RequestOp {
    proto::RequestOp {
        request: Some(request),
    }
}

/// A key's revision that no attempt can find again once it was changed.
fn fence(txn: &Txn) -> Option<(usize, &Op)> {
    txn.compare.iter().enumerate().find_map(|(i, c)| {
        let Compare::ModRevision(key, 1..) = c else {
            return None;
        };
        let changes = |op: &&Op| {
            let (Op::Put { key: k, .. } | Op::Delete { key: k }) = op;
            k == key
        };
        Some((i, txn.ops.iter().find(changes)?))
    })
}

/// Whether an earlier attempt of a transaction, refused now, is known not to have been applied
/// and never to be. `seen` is what the compared keys are now, `before` the fence's key as it was
/// at the compared revision.
fn was_surely_not_applied(txn: &Txn, seen: &[Option<KeyValue>], before: Option<&KeyValue>) -> bool {
    let Some((number, op)) = fence(txn) else {
        return false;
    };
    let (Some(Compare::ModRevision(_, wanted)), Some(now)) =
        (txn.compare.get(number), seen.get(number))
    else {
        return false;
    };
    let has_moved = now.as_ref().is_none_or(|kv| kv.mod_revision != *wanted);
    if !has_moved {
        // Not applied so far; and never, if another comparison can never hold again.
        return txn.compare.iter().zip(seen).any(|(c, kv)| match c {
            Compare::ModRevision(_, r @ 1..) => kv.as_ref().is_none_or(|kv| kv.mod_revision != *r),
            _ => false,
        });
    }
    let (Some(now), Some(before)) = (now, before) else {
        return false;
    };
    let is_next =
        now.create_revision == before.create_revision && now.version == before.version + 1;
    match op {
        // Somebody else's value follows the compared one directly.
        Op::Put { value, .. } => is_next && now.value != *value,
        Op::Delete { .. } => now.create_revision == before.create_revision,
    }
}

impl Inner {
    pub async fn commit(&self, txn: Txn) -> Result<Outcome> {
        let begun = Instant::now();
        let mut doubt: Option<String> = None;
        loop {
            let number = self.members.current();
            let failure = match self.attempt(&txn, number).await {
                Ok(answer) => return self.outcome(&txn, answer, doubt).await,
                Err(failure) => failure,
            };
            let is_late = begun.elapsed() + PAUSE > LIMIT;
            match failure {
                Failure::LeaseGone => self.leases.forget().await,
                Failure::NotBegun(why) if is_late => {
                    return Err(doubt.map_or(StoreError::Unavailable(why), StoreError::Unknown));
                }
                Failure::NotBegun(why) => {
                    tracing::debug!("writing to another member: {why}");
                    self.members.leave(number);
                }
                Failure::Open(why) if is_late || fence(&txn).is_none() => {
                    self.members.leave(number);
                    return Err(StoreError::Unknown(why));
                }
                Failure::Open(why) => {
                    self.members.leave(number);
                    doubt = Some(why);
                }
                Failure::Final(StoreError::NoSpace(why)) if self.may_be_applied(&txn).await => {
                    return Err(StoreError::Unknown(why));
                }
                other => {
                    let e = self.explain(other, 0).await;
                    return Err(doubt.map_or(e, StoreError::Unknown));
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether a transaction that was refused for want of space may have been applied all the
    /// same: a member whose quota is crossed only when it applies one says so, and has applied it.
    /// That is decided when the answer comes, so a read shows it.
    async fn may_be_applied(&self, txn: &Txn) -> bool {
        for change in &txn.ops {
            let Op::Put { key, value, .. } = change else {
                continue;
            };
            let Ok(now) = self.get(key.clone(), 0).await else {
                return true;
            };
            let wanted = txn.compare.iter().find_map(|c| match c {
                Compare::ModRevision(k, revision) if k == key => Some(*revision),
                _ => None,
            });
            return match wanted {
                Some(revision) => now.map_or(0, |kv| kv.mod_revision) != revision,
                None => now.is_some_and(|kv| kv.value == *value),
            };
        }
        false
    }

    async fn attempt(&self, txn: &Txn, number: usize) -> Result<TxnResponse, Failure> {
        let request = self.request(txn).await?;
        let bytes = request.encoded_len();
        let member = self.members.known(number).await?;
        let term = self.members.seen().borrow().term;
        let begun = Instant::now();
        let mut client = KvClient::new(member.channel()).max_decoding_message_size(usize::MAX);
        let mut call = std::pin::pin!(client.txn(led(request)));
        loop {
            match timeout(PATIENCE, &mut call).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    self.members.accept(member, answer.header.as_ref())?;
                    return Ok(answer);
                }
                Ok(Err(status)) => return Err(classify(&status, bytes)),
                Err(_) if begun.elapsed() < LIMIT && self.follows(number, term).await => {}
                Err(_) => {
                    self.members.hang_up(number);
                    let why = format!("{} did not answer", member.name());
                    return Err(Failure::Open(why));
                }
            }
        }
    }

    /// Whether a member still follows the leader of this term.
    async fn follows(&self, number: usize, term: u64) -> bool {
        let status = self.members.status(number).await;
        status.is_ok_and(|s| s.leader != 0 && s.raft_term == term)
    }

    async fn request(&self, txn: &Txn) -> Result<TxnRequest, Failure> {
        let mut success = Vec::with_capacity(txn.ops.len());
        for change in &txn.ops {
            success.push(op(match change {
                Op::Put {
                    key,
                    value,
                    expires_after_seconds,
                } => {
                    let lease = match expires_after_seconds {
                        Some(seconds) => self.leases.of(&self.members, *seconds).await?,
                        None => 0,
                    };
                    Request::Put(proto::PutRequest {
                        key: key.clone(),
                        value: value.clone(),
                        lease,
                    })
                }
                Op::Delete { key } => Request::DeleteRange(proto::DeleteRangeRequest {
                    key: key.clone(),
                    range_end: Bytes::new(),
                }),
            }));
        }
        let read = |c: &Compare| {
            op(Request::Range(proto::RangeRequest {
                key: key_of(c).clone(),
                ..proto::RangeRequest::default()
            }))
        };
        Ok(TxnRequest {
            compare: txn.compare.iter().map(compared).collect(),
            success,
            failure: txn.compare.iter().map(read).collect(),
        })
    }

    async fn outcome(
        &self,
        txn: &Txn,
        answer: TxnResponse,
        doubt: Option<String>,
    ) -> Result<Outcome> {
        if answer.succeeded {
            let revision = answer.header.map_or(0, |h| unsigned(h.revision));
            return Ok(Outcome::Committed(revision));
        }
        let seen: Vec<Option<KeyValue>> = answer
            .responses
            .into_iter()
            .map(|r| match r.response {
                Some(Response::Range(mut range)) => range.kvs.pop().map(key_value),
                _ => None,
            })
            .collect();
        let Some(why) = doubt else {
            return Ok(Outcome::Refused(seen));
        };
        let before = match fence(txn).and_then(|(i, _)| txn.compare.get(i)) {
            Some(Compare::ModRevision(key, at)) => self.get(key.clone(), *at).await.ok().flatten(),
            _ => None,
        };
        if was_surely_not_applied(txn, &seen, before.as_ref()) {
            return Ok(Outcome::Refused(seen));
        }
        Err(StoreError::Unknown(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(value: &str, mod_revision: u64, version: u64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: value.to_owned().into(),
            create_revision: 3,
            mod_revision,
            version,
        }
    }

    fn change(revision: u64) -> Txn {
        let op = Op::Put {
            key: "k".into(),
            value: "mine".into(),
            expires_after_seconds: None,
        };
        Txn {
            compare: vec![
                Compare::ModRevision("k".into(), revision),
                Compare::ModRevision("guard".into(), 4),
            ],
            ops: vec![op],
        }
    }

    #[test]
    fn only_a_change_of_what_exists_is_sent_again() {
        assert!(fence(&change(5)).is_some());
        assert!(fence(&change(0)).is_none(), "a creation");
        let mut other = change(5);
        other.compare.remove(0);
        assert!(
            fence(&other).is_none(),
            "a guard that the transaction does not change"
        );
    }

    #[test]
    fn a_refusal_after_a_lost_answer_is_believed_only_when_it_proves_something() {
        let (txn, before) = (change(5), kv("old", 5, 2));
        let guard = Some(kv("g", 4, 1));
        let applied = |now: Option<KeyValue>, guard: &Option<KeyValue>| {
            !was_surely_not_applied(&txn, &[now, guard.clone()], Some(&before))
        };
        assert!(
            !applied(Some(kv("theirs", 6, 3)), &guard),
            "another's value came next"
        );
        assert!(applied(Some(kv("mine", 6, 3)), &guard), "it may be ours");
        assert!(
            applied(Some(kv("theirs", 9, 4)), &guard),
            "ours may lie between"
        );
        assert!(applied(None, &guard), "ours may have been deleted");
        assert!(applied(Some(before.clone()), &guard), "ours may yet come");
        let moved = Some(kv("g", 8, 2));
        assert!(
            !applied(Some(before.clone()), &moved),
            "ours can never hold again"
        );
    }
}
