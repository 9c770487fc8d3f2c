//! Reads command lines for the tests of options.

use super::{Command, Config, read};

/// The configuration of `tallycast serve` with these flags, or the reason why there is none.
pub(super) fn config(flags: &[&str]) -> Result<Config, String> {
    config_of(&[&["serve"], flags].concat())
}

/// The configuration of a command, or the reason why there is none.
pub(super) fn config_of(command: &[&str]) -> Result<Config, String> {
    let arguments = ["tallycast"].iter().chain(command).map(|text| (*text).into());
    match read(arguments) {
        Ok(Command::Run(config)) => Ok(*config),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}
