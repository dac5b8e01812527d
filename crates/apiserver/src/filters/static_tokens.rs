//! Tokens of a file that are believed as they stand: comma-separated values, a line for each, as
//! upstream's `--token-auth-file`.

use std::collections::HashMap;

use access::UserInfo;
use futures::future::{BoxFuture, ready};

use super::answers::{Key, key};
use super::authn::{AuthenticatedUser, Authenticator, Rejected};
use crate::state::State;

/// Believes whoever shows one of the tokens.
pub struct StaticTokens {
    /// By digests: how long a comparison takes says nothing about a token.
    users: HashMap<Key, UserInfo>,
}

impl StaticTokens {
    /// Reads a file's text; with what whoever wrote it should know.
    ///
    /// # Errors
    /// In words: it is not of that form, or a line has fewer than three values.
    pub fn read(text: &str) -> Result<(Self, Vec<String>), String> {
        let (mut users, mut warnings) = (HashMap::new(), Vec::new());
        for (number, record) in (1..).zip(records(text)?) {
            let [token, name, uid, rest @ ..] = &record[..] else {
                return Err(format!(
                    "a token file must have at least 3 columns (token, user name, user uid), found {} in record {number}",
                    record.len()
                ));
            };
            if token.is_empty() {
                warnings.push(format!("record {number} has an empty token"));
                continue;
            }
            let groups = rest.first().into_iter().flat_map(|all| all.split(','));
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.map(str::to_owned).collect(),
                ..UserInfo::default()
            };
            if users.insert(digest(token), user).is_some() {
                warnings.push(format!("record {number} has a token of another record"));
            }
        }
        Ok((Self { users }, warnings))
    }

    fn user(&self, token: &str) -> Option<&UserInfo> {
        self.users.get(&digest(token))
    }
}

impl Authenticator for StaticTokens {
    fn token<'a>(
        &'a self,
        state: &'a State,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        // Such a token says nothing of audiences: it is good for those of this server.
        let meant = state.settings().audiences_among(audiences);
        let known = self.user(token).zip(meant).map(|(user, audiences)| {
            let user = user.clone();
            AuthenticatedUser { user, audiences }
        });
        Box::pin(ready(Ok(known)))
    }
}

fn digest(token: &str) -> Key {
    key(&[token.as_bytes()])
}

/// The records of comma-separated values (RFC 4180); empty lines are none.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all = Vec::new();
    let (mut record, mut value) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    let (mut line, mut is_quoted) = (1, false);
    loop {
        match chars.next() {
            Some('"') if value.is_empty() && !is_quoted => {
                is_quoted = true;
                loop {
                    match chars.next() {
                        Some('"') if chars.peek() == Some(&'"') => {
                            chars.next();
                            value.push('"');
                        }
                        Some('"') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            value.push(c);
                        }
                        None => return Err(format!("line {line}: a quote is not closed")),
                    }
                }
            }
            Some(',') => {
                record.push(std::mem::take(&mut value));
                is_quoted = false;
            }
            Some('\r') if matches!(chars.peek(), Some('\n') | None) => {}
            end @ (Some('\n') | None) => {
                if !record.is_empty() || !value.is_empty() || is_quoted {
                    record.push(std::mem::take(&mut value));
                    all.push(std::mem::take(&mut record));
                }
                is_quoted = false;
                line += 1;
                if end.is_none() {
                    return Ok(all);
                }
            }
            Some(c) if is_quoted || c == '"' => {
                return Err(format!("line {line}: {c:?} stands beside a quoted value"));
            }
            Some(c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_with_their_groups() {
        let text = "t1,jane,7,\"dev,ops\"\r\n\nt2,joe,,\n,nobody,1\n\"t,\"\"3\",jim,9";
        let (tokens, warnings) = StaticTokens::read(text).expect("good");
        assert_eq!(warnings, ["record 3 has an empty token"]);
        let user = |token: &str| {
            let user = tokens.user(token)?;
            Some((user.name.clone(), user.uid.clone(), user.groups.clone()))
        };
        let groups = |all: &[&str]| all.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        let of = |name: &str, uid: &str, all: &[&str]| {
            Some((name.to_owned(), uid.to_owned(), groups(all)))
        };
        assert_eq!(user("t1"), of("jane", "7", &["dev", "ops"]));
        // As upstream: an empty column is one group without a name.
        assert_eq!(user("t2"), of("joe", "", &[""]));
        assert_eq!(user("t,\"3"), of("jim", "9", &[]));
        assert_eq!(user(""), None);
        assert_eq!(user("t"), None);
    }

    #[test]
    fn the_last_of_equal_tokens_counts() {
        let (tokens, warnings) = StaticTokens::read("t,a,1\nt,b,2\n").expect("good");
        assert_eq!(tokens.user("t").map(|u| &*u.name), Some("b"));
        assert_eq!(warnings, ["record 2 has a token of another record"]);
    }

    #[test]
    fn what_is_no_token_file_is_refused() {
        for (text, why) in [
            ("t,a\n", "at least 3 columns"),
            ("t,a,1,\"g", "is not closed"),
            ("t,a\"b,1", "beside a quoted value"),
            ("t,\"a\"b,1", "beside a quoted value"),
        ] {
            let said = StaticTokens::read(text).err().unwrap_or_default();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
