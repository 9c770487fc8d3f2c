//! The effective values and their origins, for `tallycast check` and for SIGHUP.

use std::fmt;

use clap::ArgMatches;
use clap::parser::ValueSource;

use serde_json::{Value, json};

use super::file::File;
use super::secret::Secret;
use crate::size::Size;

/// The origin of values that are not configured.
const DEFAULT: &str = "default";

/// The effective value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveOption {
    /// The name of the flag without the dashes.
    pub name: String,
    /// The value, which a secret shows without what is secret; several values are separated by `;`.
    pub value: String,
    /// Where the value is from: `default`, `flag`, a variable or a file.
    pub origin: String,
    /// The whole value, if it is a secret: two may look the same.
    pub(super) secret: Option<Secret>,
}

impl EffectiveOption {
    /// Whether these are the routes, and none are configured.
    pub fn is_default_route(&self) -> bool {
        self.name == "route" && self.origin == DEFAULT
    }

    /// The option for the admin page, with what the text of `tallycast check` has.
    pub(crate) fn json(&self) -> Value {
        let Self { name, value, origin, .. } = self;
        json!({"name": name, "value": value, "origin": origin, "default": origin == DEFAULT})
    }
}

impl fmt::Display for EffectiveOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, origin, .. } = self;
        write!(formatter, "{:<44} # {origin}", format!("{name} = {value}"))
    }
}

/// Several secrets as one.
fn joined<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Secret {
    let (values, shown): (Vec<&str>, Vec<String>) = secrets.map(|secret| (secret.expose(), secret.to_string())).unzip();
    Secret::shown_as(&values.join(";"), &shown.join(";"))
}

/// Every option that has a value, in the order of the help.
pub(super) fn effective(definition: &clap::Command, matches: &ArgMatches, file: &File) -> Vec<EffectiveOption> {
    let mut options = Vec::new();
    for argument in definition.get_arguments() {
        let id = argument.get_id().as_str();
        let (Some(long), Some(source)) = (argument.get_long(), matches.value_source(id)) else { continue };
        let origin = match source {
            ValueSource::CommandLine => "flag".to_owned(),
            ValueSource::EnvVariable => {
                argument.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }
            _ if file.location(long).is_some() => file.path().display().to_string(),
            _ => DEFAULT.to_owned(),
        };
        let secret = matches.try_get_many::<Secret>(id).ok().flatten().map(joined);
        let size = matches.try_get_one::<Size>(id).ok().flatten();
        let value = match (&secret, size) {
            (Some(secret), _) => secret.to_string(),
            (_, Some(size)) => size.to_string(),
            // As given. Of a secret there is always a value above.
            _ => {
                let given = matches.get_raw(id).into_iter().flatten().map(|raw| raw.to_string_lossy());
                given.collect::<Vec<_>>().join(";")
            }
        };
        options.push(EffectiveOption { name: long.to_owned(), value, origin, secret });
    }
    options
}
