//! The index beside asking every topic in turn.

use proptest::prelude::*;

use super::prefix_tree::PrefixTree;
use super::*;

const TEMPLATES: [&str; 16] = [
    "{x}",
    "{+x}",
    "x:{x}",
    "x:{y}",
    "x:{x}/a",
    "x:{x}/b",
    "x:a{x}/b",
    "x:{x}/{y}",
    "/a/{x}",
    "/{x}/a",
    "{/x*}",
    "x:{x}b{y}/b",
    "x:{x}b{y}",
    "x:{x}a{y}/{z}",
    "x:{x}ba{y}",
    "{x}:{y}",
];

fn topics() -> impl Strategy<Value = Vec<Topic>> {
    let path = |path: String| if path.is_empty() { "/".parse().unwrap() } else { path.parse().unwrap() };
    let topic = prop_oneof![
        "(/[ab*]){0,3}(/\\*\\*)?".prop_map(path),
        namespace().prop_map(Topic::exact),
        proptest::sample::select(&TEMPLATES[..]).prop_map(|text| Topic::template(text).unwrap()),
    ];
    proptest::collection::vec(topic, 0..20)
}

fn namespace() -> impl Strategy<Value = Namespace> {
    prop_oneof!["(/[ab]){1,3}", "x:[ab]{0,2}(/[ab])?", "/", "/a/", "é"]
        .prop_map(|text| Namespace::from_topic(&text).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn visits_exactly_the_topics_that_contain_the_namespace(
        filed in topics(),
        gone in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        asked in proptest::collection::vec(namespace(), 1..8),
    ) {
        let mut index = TopicIndex::new();
        filed.iter().enumerate().for_each(|(number, topic)| index.insert(topic, number));
        let gone: Vec<usize> = if filed.is_empty() { Vec::new() } else { gone.iter().map(|of| of.index(filed.len())).collect() };
        gone.iter().for_each(|number| index.remove(&filed[*number], *number));
        for namespace in &asked {
            let mut found = Vec::new();
            index.visit(namespace, |number| found.push(number));
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..filed.len()).filter(|number| !gone.contains(number) && filed[*number].contains(namespace)).collect();
            prop_assert_eq!(index.contains_any([namespace]), !expected.is_empty());
            prop_assert_eq!(found, expected);
        }
        filed.iter().enumerate().for_each(|(number, topic)| index.remove(topic, number));
        prop_assert!(index.exact.is_empty());
        prop_assert_eq!(index.templates.count_nodes(), 1);
    }

    #[test]
    fn prefix_tree_finds_the_prefixes_of_a_text(
        filed in proptest::collection::vec("[ab]{0,4}", 0..16),
        gone in proptest::collection::vec("[ab]{0,4}", 0..8),
        text in "[abc]{0,6}",
    ) {
        let mut tree = PrefixTree::<Vec<usize>>::default();
        filed.iter().enumerate().for_each(|(number, key)| tree.entry(key.bytes()).push(number));
        gone.iter().for_each(|key| tree.change(key.bytes(), |_| false));
        let mut found = Vec::new();
        tree.visit_prefixes(text.bytes(), |length, numbers| found.extend(numbers.iter().map(|number| (length, *number))));
        found.sort_unstable_by_key(|(_, number)| *number);
        let mut kept: Vec<(usize, &String)> = filed.iter().enumerate().filter(|(_, key)| !gone.contains(key)).collect();
        let expected: Vec<(usize, usize)> =
            kept.iter().filter(|(_, key)| text.starts_with(&***key)).map(|(number, key)| (key.len(), *number)).collect();
        prop_assert_eq!(found, expected);
        kept.dedup_by_key(|(_, key)| *key);
        prop_assert!(tree.count_nodes() <= 2 * kept.len() + 1);
    }
}

#[test]
fn templates_that_differ_in_names_only_are_matched_once() {
    let mut index = TopicIndex::new();
    for number in 0..100 {
        index.insert(&Topic::template(&format!("x:{{v{number}}}/y")).unwrap(), number);
    }
    assert_eq!(index.templates.count_patterns(), 1);
    index.insert(&Topic::template("x:{+v}/y").unwrap(), 100);
    index.remove(&Topic::template("x:{+w}/y").unwrap(), 100);
    assert_eq!(index.templates.count_patterns(), 1);
    let mut found = 0;
    index.visit(&Namespace::from_topic("x:1/y").unwrap(), |_| found += 1);
    assert_eq!(found, 100);
}

#[test]
fn long_keys_take_no_more_stack_than_there_is() {
    let mut index = TopicIndex::new();
    let text = "a".repeat(2000);
    let topics: Vec<Topic> =
        (0..2000).map(|length| Topic::template(&format!("{}{{x}}", &text[..length])).unwrap()).collect();
    topics.iter().for_each(|topic| index.insert(topic, ()));
    let mut found = 0;
    index.visit(&Namespace::from_topic(&text).unwrap(), |()| found += 1);
    assert_eq!(found, 2000);
    topics.iter().for_each(|topic| index.remove(topic, ()));
    assert_eq!(index.templates.count_nodes(), 1);
}
