//! The flags of the command line with their values, as `/flagz` shows them.

use std::collections::BTreeMap;

use clap::{ArgAction, ArgMatches, Command};

/// Flags whose value is a secret.
const SECRETS: [&str; 1] = ["token"];

/// All flags of the command that was given, by name: also those that have their default, and
/// empty those that have none.
pub fn of(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let (mut command, mut matches) = (command, matches);
    loop {
        for arg in command.get_arguments() {
            let Some(name) = arg.get_long().filter(|n| !matches!(*n, "help" | "version")) else {
                continue;
            };
            all.insert(name.to_owned(), value(arg, name, matches));
        }
        let Some((name, below)) = matches.subcommand() else {
            return all;
        };
        let Some(found) = command.find_subcommand(name) else {
            return all;
        };
        (command, matches) = (found, below);
    }
}

fn value(arg: &clap::Arg, name: &str, matches: &ArgMatches) -> String {
    let id = arg.get_id().as_str();
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        let set = matches.try_get_one::<bool>(id).ok().flatten();
        return set.copied().unwrap_or(false).to_string();
    }
    let Ok(Some(values)) = matches.try_get_raw(id) else {
        return String::new();
    };
    if SECRETS.contains(&name) {
        return zpages::CLASSIFIED.to_owned();
    }
    let values: Vec<_> = values.map(|v| v.to_string_lossy()).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_of_the_command_are_shown_and_secrets_are_not() {
        let line = [
            "tiphys",
            "node",
            "--server=https://a:1",
            "--token=secret",
            "--name=n",
            "--log=warn",
        ];
        let command = crate::cli::Cli::command();
        let matches = command.clone().get_matches_from(line);
        let all = of(&command, &matches);
        let get = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(get("log"), Some("warn"));
        assert_eq!(get("name"), Some("n"));
        assert_eq!(get("server"), Some("https://a:1"));
        assert_eq!(get("token"), Some("CLASSIFIED"));
        assert_eq!(get("logging-format"), Some("text"));
        assert!(!all.values().any(|v| v.contains("secret")), "{all:?}");
        assert!(get("help").is_none());
    }
}
