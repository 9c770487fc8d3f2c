//! The order of the arguments: flags may stand before the command, so it is moved to the front before clap parses them.
//!
//! clap's global flags are no substitute: each command would accept the flags of all others.

use std::ffi::OsString;

use clap::CommandFactory;

use super::flags::{Cli, find};

/// The arguments with the command's name first, so that flags may stand before it, and that name.
pub(super) fn command_first(mut arguments: Vec<OsString>) -> (Option<String>, Vec<OsString>) {
    let definition = Cli::command();
    let named = command_place(&definition, &arguments);
    if let Some((place, _)) = named {
        arguments[1..=place].rotate_right(1);
    }
    (named.map(|(_, name)| name), arguments)
}

/// The first argument that is neither a flag nor a flag's value, if it names a command.
fn command_place(definition: &clap::Command, arguments: &[OsString]) -> Option<(usize, String)> {
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy()).enumerate().skip(1);
    while let Some((place, argument)) = arguments.next() {
        if !argument.starts_with('-') {
            return definition.find_subcommand(&*argument).map(|_| (place, argument.into_owned()));
        }
        let flag = argument.strip_prefix("--").and_then(|name| find(definition, name));
        if flag.is_some_and(|flag| flag.get_action().takes_values()) {
            arguments.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reordered(arguments: &str) -> (Option<String>, String) {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        let (named, arguments) = command_first(arguments);
        (named, arguments.join(" ".as_ref()).into_string().unwrap())
    }

    #[test]
    fn command_moves_to_the_front() {
        for (given, expected) in [
            ("tallycast --port 1 demo --rate 5", "tallycast demo --port 1 --rate 5"),
            ("tallycast --port=1 --no-admin check", "tallycast check --port=1 --no-admin"),
            ("tallycast --instance check demo", "tallycast demo --instance check"),
            ("tallycast serve --instance check", "tallycast serve --instance check"),
        ] {
            let (named, arguments) = reordered(given);
            assert_eq!(arguments, expected);
            assert_eq!(named.as_deref(), expected.split(' ').nth(1));
        }
    }

    #[test]
    fn arguments_without_a_command_are_unchanged() {
        for given in [
            "tallycast",
            "tallycast --port 1",
            "tallycast --instance",
            "tallycast sing demo",
            "tallycast --prot 1 demo",
        ] {
            assert_eq!(reordered(given), (None, given.to_owned()));
        }
    }
}
