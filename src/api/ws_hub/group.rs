//! Groups, which are topics: `news` is `/ws-hub/groups/news`.

use tallycast_fanout::{Namespace, NamespaceError, Topic, Topics};

use crate::sessions::TopicText;

/// The namespace of all groups.
pub const NAMESPACE: &str = "/ws-hub/groups";
/// Between the groups of a message.
const SEPARATOR: char = ',';

/// Why a text is not the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GroupError {
    /// It would be a wildcard.
    #[error("a group must not have a *")]
    Wildcard,
    #[error("a group is a segment of a namespace: {0}")]
    Namespace(#[from] NamespaceError),
}

/// The topics of groups that are separated by commas, each exactly as it is written. Nothing between two commas is no group.
pub(super) fn topics(groups: &str) -> Result<Vec<Topic>, GroupError> {
    groups.split(SEPARATOR).filter(|group| !group.is_empty()).map(topic).collect()
}

fn topic(group: &str) -> Result<Topic, GroupError> {
    if group.contains('*') {
        return Err(GroupError::Wildcard);
    }
    let parents = NAMESPACE.split('/').skip(1);
    Ok(Namespace::from_segments(parents.chain([group]))?.into())
}

/// The topics of all groups, for a grant.
pub(super) fn all() -> Option<TopicText> {
    NAMESPACE.parse().ok().map(TopicText)
}

/// The groups among the topics of a client, which a backend may have given others too.
pub(super) fn names(topics: &Topics) -> Vec<String> {
    let name = |topic: Topic| {
        let group = topic.as_namespace()?.as_str().strip_prefix(NAMESPACE)?.strip_prefix('/')?;
        (!group.contains('/')).then(|| group.to_owned())
    };
    topics.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_topics_and_back() {
        let text = "1,2,,all,news,a b,é,{x},";
        let topics = topics(text).unwrap();
        let texts: Vec<String> = topics.iter().map(ToString::to_string).collect();
        assert_eq!((topics.len(), &*texts[3]), (7, "/ws-hub/groups/news"));
        // As the store of sessions keeps them.
        let kept: Vec<Topic> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(kept, topics);
        let mut names = names(&Topics::new(topics).unwrap());
        names.sort();
        assert_eq!(names, ["1", "2", "a b", "all", "news", "{x}", "é"]);
        assert_eq!(super::topics(",").unwrap(), []);
    }

    #[test]
    fn text_that_could_be_another_group_is_refused() {
        assert_eq!(topics("a,*"), Err(GroupError::Wildcard));
        for text in ["a/b", "a\nb", "/", &"x".repeat(600)] {
            assert!(matches!(topics(text), Err(GroupError::Namespace(_))), "{text}");
        }
    }

    #[test]
    fn other_topics_are_no_groups() {
        let topics = ["/news", NAMESPACE, "/ws-hub/groups/a/b", "/ws-hub/groups/*", "/ws-hub/groupsx/a"];
        let topics = topics.map(|text| text.parse().unwrap()).into();
        assert_eq!(names(&Topics::new(topics).unwrap()), [""; 0]);
    }
}
