//! The defaults of `tallycast demo`: the configuration that each of its pages shows, and that of `/web/chat` and `/web/notifications`.

use std::path::Path;

use super::file::{File, FileError};

/// Files, of which each is a configuration by itself, with their names.
pub(super) const FILES: [(&str, &str); 5] = [
    ("demo-counter.toml", include_str!("../../web/demo-counter.toml")),
    ("demo-prices.toml", include_str!("../../web/demo-prices.toml")),
    ("demo-chat.toml", include_str!("../../web/demo-chat.toml")),
    ("demo-notifications.toml", include_str!("../../web/demo-notifications.toml")),
    ("demo.toml", include_str!("../../web/demo.toml")),
];

/// All of them as one. Of the lists that several have, it has all items.
pub(super) fn defaults(definition: &clap::Command) -> Result<File, FileError> {
    let mut all = File::default();
    for (name, text) in FILES {
        all.add(File::parse(Path::new(name), text, definition)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config_of;

    #[test]
    fn demo_has_the_configuration_of_all_pages_and_others_replace_it() {
        let demo = config_of(&["demo"]).unwrap();
        let option = |name: &str| demo.options.iter().find(|option| option.name == name).unwrap();
        assert_eq!(
            option("route").value,
            "stream.score_updates=/raw,tally=/eps;prices.*=/prices/*,history=last;\
             stream:notices=/notices/*,history=1000,history=1h;stream.tweet_updates.*=/details/*,event=channel"
        );
        assert_eq!((&*option("route").origin, &*option("slow-reader").value), ("default", "/eps=merge;/prices=latest"));
        assert!(demo.subscriptions);
        let channels = &demo.contracts.realtime.as_ref().unwrap().channels;
        assert_eq!(
            channels.iter().map(|channel| channel.id.as_str()).collect::<Vec<_>>(),
            ["lounge", "chat", "notifications"]
        );
        let other = config_of(&["demo", "--route", "a=/a"]).unwrap();
        assert_eq!(other.options.iter().find(|option| option.name == "route").unwrap().value, "a=/a");
        let serve = config_of(&["serve"]).unwrap();
        assert!(!serve.subscriptions && serve.contracts.realtime.is_none());
    }
}
