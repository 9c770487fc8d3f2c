//! The layer rules of `docs/architecture.md`, held against the code's own imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which of the crate's modules each module may import. `None`: all.
const MAY_IMPORT: &[(&str, Option<&[&str]>)] = &[
    ("main", None),
    ("lib", None),
    ("config", None),
    ("healthcheck", Some(&[])),
    ("reload", Some(&["config", "decode", "sse_server"])),
    // The engine knows no protocol and no source.
    ("fanout", Some(&[])),
    // A transport knows the engine and no source.
    ("sse_server", Some(&["fanout", "header_list", "websocket"])),
    ("websocket", Some(&["fanout", "header_list"])),
    // The stages before the engine know the pipeline's types and no transport.
    ("source", Some(&["fanout", "limited"])),
    ("decode", Some(&["fanout", "limited", "source", "tally"])),
    ("tally", Some(&["fanout"])),
    // Pages know what they show.
    ("assets", Some(&["representation", "sse_server"])),
    ("representation", Some(&["header_list", "sse_server"])),
    ("snapshot", Some(&["representation", "source", "sse_server"])),
    ("demo", Some(&["fanout", "snapshot", "source"])),
    ("site", Some(&["admin", "assets", "snapshot", "sse_server"])),
    // Operators are told of everything.
    ("admin", Some(&["decode", "fanout", "representation", "source", "sse_server", "tally"])),
    ("limited", Some(&[])),
    ("header_list", Some(&[])),
];

/// The names that follow `prefix` (such as `crate::`) in `source`, also within braces.
fn names_after<'a>(prefix: &str, source: &'a str) -> BTreeSet<&'a str> {
    let identifier = |text: &'a str| {
        let text = text.trim_start();
        &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
    };
    let mut names = BTreeSet::new();
    for (at, _) in source.match_indices(prefix) {
        // `$crate::` and `other_crate::` are other things.
        if source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
            continue;
        }
        let rest = &source[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut start_of_name = true;
        for (index, c) in group.char_indices() {
            if depth == 0 && start_of_name && !c.is_whitespace() && c != '}' {
                names.insert(identifier(&group[index..]));
                start_of_name = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start_of_name = true,
                _ => {}
            }
        }
    }
    names
}

/// The code without its comments, where modules are only talked about.
fn without_comments(source: &str) -> String {
    source.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect::<Vec<_>>().join("\n")
}

/// All source files: path below `src` without its ending, and code.
fn sources() -> BTreeMap<PathBuf, String> {
    fn visit(directory: &Path, root: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = without_comments(&std::fs::read_to_string(&path).unwrap());
                found.insert(path.strip_prefix(root).unwrap().with_extension(""), code);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    visit(&root, &root, &mut found);
    found
}

/// The crate's own modules that a file imports. `supers` is how many `super::` lead out of its top-level module.
fn imports(path: &Path, code: &str) -> BTreeSet<String> {
    let is_module_root = path.ends_with("mod") || path.components().count() == 1;
    let supers = path.components().count() - usize::from(is_module_root && path.components().count() > 1);
    let to_root = "super::".repeat(supers);
    let mut names: BTreeSet<String> = names_after("crate::", code).into_iter().map(str::to_owned).collect();
    names.extend(names_after("tallycast::", code).into_iter().map(str::to_owned));
    // Tests within a file are one module deeper, so their `super::` cannot be told apart from the file's own; of paths
    // that lead to the root, only the longest possible are looked at, and those must not be there at all.
    if path.components().count() > 1 && names_after(&to_root, code).iter().any(|name| *name != "super") {
        names.extend(names_after(&to_root, code).into_iter().map(str::to_owned));
    }
    names
}

#[test]
fn modules_import_only_what_their_layer_may() {
    let rules: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for (path, code) in sources() {
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap();
        let rule = rules.get(module).unwrap_or_else(|| panic!("the new module {module} needs a rule here"));
        seen.insert(module.to_owned());
        let Some(allowed) = rule else { continue };
        for name in imports(&path, &code) {
            assert!(
                name == module || allowed.contains(&name.as_str()),
                "src/{}.rs imports crate::{name}, but {module} may import only {allowed:?}",
                path.display()
            );
        }
    }
    let unused: Vec<_> = rules.keys().filter(|module| !seen.contains(**module)).collect();
    assert!(unused.is_empty(), "rules for modules that are gone: {unused:?}");
}

#[test]
fn only_config_reads_the_environment() {
    for (path, code) in sources() {
        if path.starts_with("config") {
            continue;
        }
        let allowed: &[&str] =
            if path == Path::new("main") || path == Path::new("reload") { &["args_os"] } else { &[] };
        for name in names_after("env::", &code.replace("std::env::", " env::")) {
            assert!(allowed.contains(&name), "src/{}.rs uses std::env::{name}", path.display());
        }
        assert!(!code.contains("use std::env;"), "src/{}.rs imports std::env", path.display());
    }
}

#[test]
fn names_are_found_however_they_are_imported() {
    let names = |code| names_after("crate::", code).into_iter().collect::<Vec<_>>();
    assert_eq!(names("use crate::source::RawEvent;"), ["source"]);
    assert_eq!(names("use crate::{decode, fanout::{self, Message},\n  tally};"), ["decode", "fanout", "tally"]);
    assert_eq!(names("fn f() -> crate::admin::Status {}"), ["admin"]);
    assert_eq!(names("other_crate::x $crate::y"), [""; 0]);
    assert_eq!(without_comments("a; // crate::x\n//! crate::y\nb"), "a; \n\nb");
}
