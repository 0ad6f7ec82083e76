//! The repository tests its own form: what may depend on what, licences, sizes, links, words, and that the tables of behaviour
//! are covered.
//!
//! Each rule is a function from what it looks at to a list of violations, so that its own unit test can show it a bad sample: a
//! check that can't fail proves nothing. The tests below hold each rule against the tree. Lists of known exceptions are ratchets:
//! an entry that is no longer needed fails too.

#![expect(clippy::unwrap_used, reason = "a test")]

mod bounds;
mod coverage;
mod crates;
mod definitions;
mod duplicates;
mod licences;
mod links;
mod metadata;
mod modules;
mod sizes;
mod source;
mod tree;
mod words;

use metadata::Metadata;
use source::Source;

/// Fails with every violation, one a line.
#[track_caller]
fn none(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<String> = violations.into_iter().collect();
    assert!(
        violations.is_empty(),
        "{} violations:\n  {}",
        violations.len(),
        violations.join("\n  ")
    );
}

#[test]
fn crates_depend_only_on_what_they_may() {
    none(crates::violations(&Metadata::read()));
}

#[test]
fn paths_stay_where_they_belong() {
    none(Source::all().iter().flat_map(crates::misplaced));
}

#[test]
fn core_modules_and_dialects_do_not_import_each_other() {
    none(Source::all().iter().flat_map(modules::violations));
}

#[test]
fn unsafe_code_is_in_one_module() {
    none(Source::all().iter().flat_map(crates::unsafety));
}

#[test]
fn licences_are_accepted() {
    none(licences::violations(
        &Metadata::read(),
        &licences::accepted(&tree::read("deny.toml")),
    ));
}

#[test]
fn double_versions_are_known() {
    none(duplicates::violations(&Metadata::read(), duplicates::KNOWN));
}

#[test]
fn links_and_paths_in_documents_lead_somewhere() {
    let files = tree::files();
    let documents = files
        .iter()
        .filter(|path| tree::has_extension(path, "md") && !tree::is_verbatim(path));
    none(documents.flat_map(|path| links::violations(path, &tree::read(path), &files)));
}

#[test]
fn files_and_functions_have_one_subject() {
    let measured: Vec<_> = Source::all().iter().flat_map(sizes::oversized).collect();
    none(sizes::violations(&measured, sizes::KNOWN));
}

#[test]
fn no_word_of_the_build_machine() {
    let text = |path: &String| Some((path.clone(), tree::text(path)?));
    none(
        tree::files()
            .iter()
            .filter_map(text)
            .flat_map(|(path, text)| words::violations(&path, &text)),
    );
}

#[test]
fn every_command_and_every_rejection_has_a_golden_script() {
    let folders = ["node/core/tests/scripts/", "node/core/tests/bounds/"];
    let scripts: Vec<String> = folders.into_iter().flat_map(tree::scripts).collect();
    let commands = Source::of("node/core/src/command.rs").variants("Command");
    let grammar = Source::of("node/core/tests/script/parse.rs");
    none(coverage::commands(&commands, &grammar, &scripts));
    let outcomes = Source::of("node/core/src/outcome.rs");
    none(coverage::rejections(
        &outcomes.variants("Rejection"),
        &outcomes,
        &scripts,
        coverage::ELSEWHERE,
    ));
}

#[test]
fn every_part_of_the_definitions_is_explained() {
    let files = tree::files();
    let definitions = files.iter().filter(|path| tree::has_extension(path, "proto"));
    none(definitions.flat_map(|path| definitions::violations(path, &tree::read(path))));
}

#[test]
fn every_bound_is_reached_by_a_test() {
    let sources = Source::all();
    none(bounds::LAYERS.iter().flat_map(|layer| {
        let folders = layer.scripts.iter();
        let scripts: Vec<String> = folders.flat_map(|folder| tree::scripts(folder)).collect();
        bounds::unreached(layer, &Source::of(layer.limits), &sources, &scripts)
    }));
}

#[test]
fn the_name_of_a_bound_says_which_it_is() {
    let limits = bounds::LAYERS.iter().map(|layer| Source::of(layer.limits));
    none(bounds::ambiguous(&limits.collect::<Vec<_>>()));
}
