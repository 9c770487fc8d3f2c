//! Tests of topics and sets of them.

use proptest::prelude::*;

use super::*;

fn topic(text: &str) -> Topic {
    text.parse().unwrap()
}

#[test]
fn topic_covers_narrower_topics() {
    let covers = |wide: &str, narrow: &str| {
        let topic = |text: &str| text.parse::<Topic>().unwrap();
        topic(wide).covers(&topic(narrow))
    };
    assert!(covers("/", "/a") && covers("/a", "/a/*") && covers("/a", "/a") && covers("/*/b/**", "/a/b/c"));
    assert!(covers("/a/*", "/a/*") && covers("/*/*", "/a/*") && covers("/a/**", "/a/*/**"));
    assert!(!covers("/a", "/") && !covers("/a/b", "/a/*") && !covers("/a/*", "/*/*") && !covers("/a", "/ab"));
    assert!(!covers("/a/*", "/a/b"), "/a/b includes what is below it");
}

#[test]
fn weight_grows_with_topics_and_their_length() {
    let weight =
        |topics: &[&str]| Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap().weight();
    assert_eq!(weight(&["/a"]), 512 + 256 + 2 * 2);
    assert_eq!(weight(&["/a", "/bcd"]), 512 + 2 * 256 + 2 * (2 + 4));
}

#[test]
fn only_topics_without_wildcards_are_namespaces() {
    let namespace = |topics: &[&str]| {
        let topics = Topics::new(topics.iter().map(|topic| topic.parse().unwrap()).collect()).unwrap();
        topics.as_namespace().map(|namespace| namespace.to_string())
    };
    assert_eq!(namespace(&["/a/b"]).as_deref(), Some("/a/b"));
    assert_eq!(namespace(&["/"]).as_deref(), Some("/"));
    assert_eq!(namespace(&["/a/*"]), None);
    assert_eq!(namespace(&["/a", "/b"]), None);
    assert_eq!(Topics::none().as_namespace(), None);
}

#[test]
fn debug_output_is_the_quoted_text() {
    let topics = Topics::new(vec![topic("/b"), topic("/a/*")]).unwrap();
    assert_eq!(format!("{topics:?} {:?}", topic("/*/a/**")), "\"/a/*,/b\" \"/*/a/**\"");
    assert_eq!((topics.len(), Topics::none().len()), (2, 0));
}

#[test]
fn wildcard_matches_one_segment() {
    let contains = |topic: &str, namespace: &str| self::topic(topic).contains(&namespace.parse().unwrap());
    assert!(contains("/price", "/price") && contains("/price", "/price/A/1"));
    assert!(contains("/price/*", "/price/A") && !contains("/price/*", "/price/A/1") && !contains("/price/*", "/price"));
    assert!(contains("/*/asx/**", "/price/asx") && contains("/*/asx/**", "/price/asx/A/1"));
    assert!(!contains("/*/asx/**", "/price/nyse/A"));
    assert!(contains("/**", "/raw") && contains("/", "/raw") && contains("/**", "/"));
    assert_eq!(topic("/price/**"), topic("/price"));
    assert_eq!(topic("/*/a/**").to_string(), "/*/a/**");
    assert_eq!((topic("/a/*/b").literal_prefix().as_str(), topic("/*").literal_prefix().as_str()), ("/a", "/"));
}

#[test]
fn ambiguous_paths_are_refused() {
    let error = |path: &str| Topic::from_url_path(path).unwrap_err();
    assert_eq!(Topic::from_url_path("/a%20b/%F0%9F%98%82").unwrap(), topic("/a b/😂"));
    assert_eq!(Topic::from_url_path("/%2541").unwrap(), topic("/%41"));
    for path in ["/a%2Fb", "/a%0Ab"] {
        assert_eq!(error(path), NamespaceError::Forbidden.into(), "{path}");
    }
    for path in ["/a%", "/%zz", "/%ff"] {
        assert_eq!(error(path), NamespaceError::Encoding.into(), "{path}");
    }
    for path in ["/a/%2e%2E", "/./a", "/a%2Cb", "/a,b/c"] {
        assert_eq!(error(path), TopicError::Ambiguous, "{path}");
    }
    for path in ["/a*", "/%2A", "/%2a*", "/**/a", "/***"] {
        assert_eq!(error(path), TopicError::Wildcard, "{path}");
    }
    assert_eq!(error("/*/*/*/*/*"), TopicError::TooManyWildcards);
    assert_eq!(error("raw"), NamespaceError::NotAbsolute.into());
    assert_eq!(topic("/a,b").to_string(), "/a,b");
}

#[test]
fn last_segment_of_a_path_may_be_several() {
    let several = |path: &str| Topic::several_from_url_path(path, 2);
    assert_eq!(several("/price/B,%41/").unwrap(), [topic("/price/B"), topic("/price/A")]);
    assert_eq!(several("/*,a").unwrap(), [topic("/*"), topic("/a")]);
    for path in ["/a,,b", "/a,", "//a", "/"] {
        assert_eq!(several(path), Err(NamespaceError::EmptySegment.into()), "{path}");
    }
    assert_eq!(several("a/b"), Err(NamespaceError::NotAbsolute.into()));
    assert_eq!(several("/a,b/c"), Err(TopicError::Ambiguous));
}

#[test]
fn reading_a_path_stops_at_its_limits() {
    // What follows is not valid, and not reached.
    let many = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(Topic::several_from_url_path(&format!("/{}", many(5)), 5).unwrap().len(), 5);
    let more = format!("/{},%zz", many(6));
    assert_eq!(Topic::several_from_url_path(&more, 5), Err(TopicError::TooManyTopics(5)));
    let deep = format!("{}/%zz", "/a".repeat(MAX_NAMESPACE_DEPTH + 2));
    assert_eq!(Topic::from_url_path(&deep), Err(NamespaceError::TooDeep.into()));
    assert_eq!(Topic::several_from_url_path(&deep, 5), Err(NamespaceError::TooDeep.into()));
}

#[test]
fn topic_sets_ignore_order_and_duplicates() {
    let set = |texts: &[&str]| Topics::new(texts.iter().map(|text| topic(text)).collect());
    assert_eq!(set(&["/b", "/a", "/b"]), set(&["/a", "/b/**"]));
    assert_eq!(set(&["/b", "/a"]).unwrap().to_string(), "/a,/b");
    assert_eq!(set(&[]), Err(TopicError::NoTopics));
    let many: Vec<Topic> = (0..=MAX_TOPICS).map(|number| topic(&format!("/{number}"))).collect();
    assert_eq!(Topics::new(many), Err(TopicError::TooManyTopics(MAX_TOPICS)));
}

/// Every namespace of up to four segments.
fn all_namespaces() -> Vec<Namespace> {
    let mut all = vec![String::new()];
    for start in 0.. {
        if all.get(start).is_none_or(|path| path.len() == 8) {
            break;
        }
        all.extend(["a", "b", "c"].map(|segment| format!("{}/{segment}", all[start])));
    }
    all.iter().map(|path| if path.is_empty() { Namespace::root() } else { path.parse().unwrap() }).collect()
}

/// Topics of all kinds, which have much in common.
fn any_topic() -> impl Strategy<Value = Topic> {
    let parsed = |path: String| if path.is_empty() { topic("/") } else { topic(&path) };
    prop_oneof![
        4 => "(/[ab*]){0,3}(/\\*\\*)?".prop_map(parsed),
        2 => any_namespace().prop_map(Topic::exact),
        2 => proptest::sample::select(&TEMPLATES[..]).prop_map(|text| Topic::template(text).unwrap()),
    ]
}

const TEMPLATES: [&str; 9] = ["/a/{x}", "/a/{y}", "/a{/x*}", "{x}", "{+x}", "x:{x}", "x:{y}", "/{x}/b", "x:{x}/{y}"];

fn any_namespace() -> impl Strategy<Value = Namespace> {
    let topic = |text: String| Namespace::from_topic(if text.is_empty() { "/" } else { &text }).unwrap();
    prop_oneof!["(/[ab]){0,4}".prop_map(topic), "x:[ab]?(/[ab])?|a|/a/|/b//".prop_map(topic)]
}

#[test]
fn absolute_iris_are_names() {
    for text in ["https://e/1", "urn:uuid:1", "a+b.c-d:x", "x:", "https://e/{id}"] {
        assert_eq!(topic(text), Topic::exact(Namespace::from_topic(text).unwrap()), "{text}");
        assert_eq!(topic(text).to_string(), text);
        assert_eq!(topic(text).as_namespace().unwrap().as_str(), text);
    }
    for text in ["foo", "1a:b", ":", "a b:c", ""] {
        assert_eq!(text.parse::<Topic>(), Err(NamespaceError::NotAbsolute.into()), "{text}");
    }
    assert_eq!("a:b\nc".parse::<Topic>(), Err(NamespaceError::Forbidden.into()));
}

#[test]
fn selector_is_everything_a_template_or_exact() {
    let selector = |text: &str| Topic::selector(text).unwrap();
    assert_eq!(selector("*"), topic("/"));
    assert_eq!(selector("https://e/{id}"), Topic::template("https://e/{id}").unwrap());
    assert_eq!(selector("/a"), Topic::exact("/a".parse().unwrap()));
    assert!(selector("/a").contains(&"/a".parse().unwrap()) && !selector("/a").contains(&"/a/b".parse().unwrap()));
    assert_eq!(selector("/*").to_string(), "/*");
    assert!(!selector("/*").contains(&"/a".parse().unwrap()));
    assert_eq!(Topic::selector("a\n{"), Err(NamespaceError::Forbidden));
}

#[test]
fn sets_show_all_kinds_as_text() {
    let texts = ["/b", "/a/*", "x:1", "x:{x}"];
    let mut topics: Vec<Topic> = texts[..3].iter().map(|text| topic(text)).collect();
    topics.push(Topic::template(texts[3]).unwrap());
    let set = Topics::new(topics).unwrap();
    assert_eq!((set.to_string().as_str(), set.len()), ("/a/*,/b,x:1,x:{x}", 4));
    assert_eq!(
        Topics::from(Namespace::from_topic("x").unwrap()).as_namespace(),
        Some(Namespace::from_topic("x").unwrap())
    );
    let of = |topic| Topics::new(vec![topic]).unwrap();
    assert!(of(Topic::template("x:{x}").unwrap()).weight() > of(topic("x:{x}")).weight());
}

#[test]
fn intersection_joins_segments() {
    let common = |one: &str, other: &str| {
        let common = topic(one).intersection(&topic(other));
        assert_eq!(topic(other).intersection(&topic(one)), common, "{one} {other}");
        common.map(|topic| topic.to_string())
    };
    assert_eq!(common("/*/a/**", "/b/*").as_deref(), Some("/b/a"));
    assert_eq!(common("/*/a", "/b/*/*").as_deref(), None);
    assert_eq!(common("/*/a/**", "/b/*/*").as_deref(), Some("/b/a/*"));
    assert_eq!(common("/a", "/*/b").as_deref(), Some("/a/b"));
    assert_eq!(common("/a", "/b"), None);
    let exact = topic("/price/*").intersection(&topic("/price/A"));
    assert_eq!(exact, Some(Topic::exact("/price/A".parse().unwrap())));
    let template = Topic::template("x:{x}").unwrap();
    assert_eq!(template.intersection(&topic("/")), Some(template.clone()));
    assert_eq!(template.intersection(&topic("x:1")), Some(topic("x:1")));
    assert_eq!(template.intersection(&topic("/x")), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn intersection_is_what_both_contain(one in any_topic(), other in any_topic(), namespaces in proptest::collection::vec(any_namespace(), 8)) {
        let common = one.intersection(&other);
        let is_template = |topic: &Topic| matches!(topic.kind(), Kind::Template(_));
        // What a template has in common with another topic may have no topic.
        prop_assume!(common.is_some() || !(is_template(&one) || is_template(&other)));
        for namespace in namespaces.iter().chain(&all_namespaces()) {
            let is_common = common.as_ref().is_some_and(|common| common.contains(namespace));
            prop_assert_eq!(is_common, one.contains(namespace) && other.contains(namespace), "{} {} {}", one, other, namespace);
        }
    }

    #[test]
    fn covering_topic_contains_all_of_the_other(one in any_topic(), other in any_topic(), namespaces in proptest::collection::vec(any_namespace(), 8)) {
        let (covers, is_covered) = (one.covers(&other), other.covers(&one));
        for namespace in namespaces.iter().chain(&all_namespaces()) {
            prop_assert!(!covers || !other.contains(namespace) || one.contains(namespace), "{} {} {}", one, other, namespace);
            prop_assert!(!is_covered || !one.contains(namespace) || other.contains(namespace), "{} {} {}", one, other, namespace);
        }
        prop_assert!(one.covers(&one) && topic("/").covers(&one));
    }

    #[test]
    fn topic_that_contains_something_in_a_namespace_overlaps_it(topic in any_topic(), namespace in any_namespace(), sent in any_namespace()) {
        let is_common = topic.contains(&sent) && namespace.contains(&sent);
        prop_assert!(!is_common || topic.overlaps(&namespace), "{} {} {}", topic, namespace, sent);
        if topic.contains(&sent) {
            prop_assert!(topic.literal_prefix().contains(&sent), "{} {}", topic, sent);
        }
    }

    /// A set has the topics that it was made of, of whatever kinds they are.
    #[test]
    fn sets_give_back_topics_of_all_kinds(topics in proptest::collection::vec(any_topic(), 1..8)) {
        let set = Topics::new(topics.clone()).unwrap();
        let mut topics = topics;
        topics.sort_unstable();
        topics.dedup();
        prop_assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (topics.len(), topics));
    }
}

proptest! {
    /// A set has the topics that it was made of, whatever characters they have.
    #[test]
    fn sets_give_back_their_topics(texts in proptest::collection::vec("(/([ab]|\\*|é ,|\u{2028})){1,4}(/\\*\\*)?", 1..6)) {
        let mut topics: Vec<Topic> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        prop_assume!(!topics.is_empty());
        let set = Topics::new(topics.clone()).unwrap();
        topics.sort_unstable();
        topics.dedup();
        prop_assert_eq!(set.len(), topics.len());
        prop_assert_eq!(set.iter().collect::<Vec<_>>(), topics);
    }

    #[test]
    fn topic_overlaps_a_namespace_if_both_contain_one(
        topic in "(/[ab*]){0,3}(/\\*\\*)?",
        namespace in "(/[ab]){0,3}",
    ) {
        let topic: Topic = if topic.is_empty() { "/" } else { &topic }.parse().unwrap();
        let namespace: Namespace = if namespace.is_empty() { "/" } else { &namespace }.parse().unwrap();
        let common = all_namespaces().iter().any(|one| topic.contains(one) && namespace.contains(one));
        prop_assert_eq!(topic.overlaps(&namespace), common, "{} {}", topic, namespace);
    }

    #[test]
    fn display_and_parse_round_trip(text in "(/[a*,. ]{0,3}){0,6}") {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }
    }

    #[test]
    fn decoding_never_panics(path in "[/%*,.0-9a-zA-Z\u{80}-\u{fff}]{0,40}") {
        let one = Topic::from_url_path(&path);
        if !path.contains(',') && path != "/" {
            prop_assert_eq!(Topic::several_from_url_path(&path, 1).map(|mut topics| topics.remove(0)), one);
        }
    }
}
