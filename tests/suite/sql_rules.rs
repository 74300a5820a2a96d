//! The rules for SQL: what a step of the schema may do, and how statements name their columns. Both let programs of two versions work
//! on one database.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The steps that made the first schema. They are as they are.
const FIRST_STEPS: &str = "0008";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder by their names, with what they hold.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries =
        fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("it can be read").path());
    entries
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("a file can be read"))
        })
        .collect()
}

/// The statements of a script, on one line each and in capitals; comments left out.
fn statements(script: &str) -> Vec<String> {
    let code = script.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let statements = code.split(';').map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase());
    statements.filter(|statement| !statement.is_empty()).collect()
}

/// Why a program of the level before could stumble over this statement.
fn not_additive(statement: &str) -> Option<&'static str> {
    let has = |word: &str| statement.split(|letter: char| !letter.is_alphanumeric()).any(|found| found == word);
    if statement.starts_with("CREATE TABLE") || statement.starts_with("CREATE INDEX") {
        return None;
    }
    if ["CREATE VIEW", "CREATE OR REPLACE VIEW", "DROP VIEW"].iter().any(|start| statement.starts_with(start)) {
        return None;
    }
    if !statement.starts_with("ALTER TABLE") {
        return Some("only tables, indexes, columns and views are added");
    }
    if ["DROP", "RENAME", "MODIFY", "CHANGE", "ALTER COLUMN", "CONSTRAINT", "UNIQUE", "CHECK"]
        .iter()
        .any(|word| if word.contains(' ') { statement.contains(word) } else { has(word) })
    {
        return Some("what is there stays as it is");
    }
    let added = statement.matches(" ADD ").count();
    let required = statement.matches("NOT NULL").count();
    if added == 0 || statement.matches(" DEFAULT ").count() < required {
        return Some("a new column may be NULL or has a default");
    }
    None
}

#[test]
fn the_steps_have_the_same_names_for_each_database() {
    let names = ["sqlite", "postgres", "mysql"].map(|tree| {
        let files = files(&root().join("migrations").join(tree));
        files.into_keys().collect::<Vec<_>>()
    });
    assert!(names[0].len() >= 8);
    assert!(names.iter().all(|found| *found == names[0]), "{names:?}");
    for (number, name) in (1..).zip(&names[0]) {
        assert!(name.starts_with(&format!("{number:04}_")), "{name} is not number {number}");
    }
}

#[test]
fn steps_after_the_first_schema_only_add() {
    for tree in ["sqlite", "postgres", "mysql"] {
        for (name, script) in files(&root().join("migrations").join(tree)) {
            if name.as_str() < FIRST_STEPS || name.starts_with(FIRST_STEPS) {
                continue;
            }
            for statement in statements(&script) {
                assert_eq!(not_additive(&statement), None, "migrations/{tree}/{name}: {statement}");
            }
        }
    }
}

#[test]
fn a_step_that_does_more_than_add_is_found() {
    for script in [
        "ALTER TABLE wx_token DROP COLUMN mode",
        "ALTER TABLE wx_token RENAME COLUMN mode TO manner",
        "ALTER TABLE wx_token ADD COLUMN profile TEXT NOT NULL",
        "ALTER TABLE wx_token ADD COLUMN a BIGINT NOT NULL DEFAULT 0, ADD COLUMN b BIGINT NOT NULL",
        "ALTER TABLE wx_token MODIFY mode VARCHAR(8)",
        "ALTER TABLE wx_token ALTER COLUMN mode TYPE INTEGER",
        "ALTER TABLE wx_token ADD CONSTRAINT one UNIQUE (mode)",
        "-- Gone.\nDROP TABLE wx_audit",
        "DROP INDEX wx_token_due",
        "CREATE UNIQUE INDEX one ON wx_token (mode)",
        "DELETE FROM wx_audit",
    ] {
        let statements = statements(script);
        assert!(statements.iter().any(|statement| not_additive(statement).is_some()), "{script}");
    }
    for script in [
        "ALTER TABLE wx_key ADD COLUMN profile TEXT;\nALTER TABLE wx_key\n  ADD COLUMN used BIGINT NOT NULL DEFAULT 0;",
        "CREATE TABLE wx_job (id BIGINT NOT NULL PRIMARY KEY); CREATE INDEX wx_job_due ON wx_job (id)",
        "DROP VIEW wx_report_accounts; CREATE VIEW wx_report_accounts AS SELECT appid FROM wx_account",
    ] {
        assert!(statements(script).iter().all(|statement| not_additive(statement).is_none()), "{script}");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder can be read").map(|entry| entry.expect("it can be read").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Statements whose meaning changes with a column that a later version adds.
fn nameless(source: &str) -> Vec<&str> {
    let starts = source.match_indices("INSERT INTO ").filter(|(at, word)| {
        let rest =
            source[at + word.len()..].trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_');
        // A list of columns may begin on the next line of a literal.
        !rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '\\').starts_with('(')
    });
    let stars =
        source.match_indices("SELECT *").chain(source.match_indices(".*, ")).chain(source.match_indices(".* FROM"));
    starts.chain(stars).map(|(at, _)| source[at..].lines().next().unwrap_or_default()).collect()
}

#[test]
fn statements_name_their_columns() {
    let mut inserts = 0;
    for path in sources(&root().join("src/store")) {
        let source = fs::read_to_string(&path).expect("a source can be read");
        // A macro puts the name in.
        let source = source.replace("\", $table, \"", "table");
        inserts += source.matches("INSERT INTO ").count();
        assert_eq!(nameless(&source), Vec::<&str>::new(), "{}", path.display());
    }
    assert!(inserts > 5, "these are not all the statements");
    for breach in ["SELECT * FROM t", "SELECT t.* FROM t", "INSERT INTO t VALUES (1)", "INSERT INTO t SELECT a FROM b"]
    {
        assert_eq!(nameless(breach).len(), 1, "{breach}");
    }
    for fine in ["INSERT INTO t (a) VALUES (1)", "INSERT INTO t \\\n (a) VALUES (1)", "SELECT COUNT(*) FROM t"] {
        assert_eq!(nameless(fine).len(), 0, "{fine}");
    }
}
