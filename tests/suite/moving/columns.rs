//! What is copied is what the schemas have: a table or a column of a later step must not be forgotten.

use std::collections::{BTreeMap, BTreeSet};

use wxtoken::store::copy::TABLES;
use wxtoken::store::db::Db;
use wxtoken::store::migrate::bring_up_to_date;

use crate::store::raw::Raw;
use crate::support::database::{Kind, on_every_database};

/// The names of a table's columns, sorted.
pub(super) async fn of(kind: Kind, raw: &mut Raw, table: &str) -> Vec<String> {
    let sql = match kind {
        Kind::Sqlite => format!("SELECT name FROM pragma_table_info('{table}')"),
        Kind::Postgres => format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = '{table}'"
        ),
        Kind::Mysql => format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '{table}'"
        ),
    };
    let mut names: Vec<String> = raw.rows(&sql).await.into_iter().flatten().flatten().collect();
    names.sort();
    names
}

async fn tables(kind: Kind, raw: &mut Raw) -> Vec<String> {
    let sql = match kind {
        Kind::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table'",
        Kind::Postgres => {
            "SELECT table_name FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'"
        }
        Kind::Mysql => {
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'"
        }
    };
    let names = raw.rows(sql).await.into_iter().flatten().flatten();
    // The list of steps is each database's own.
    names.filter(|name| name.starts_with("wx_") && name != "wx_migrations").collect()
}

on_every_database! {
    async fn every_column_of_every_table_is_copied(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        bring_up_to_date(&db).await.expect("it works");
        let (kind, mut raw) = (database.kind(), Raw::connect(database.kind(), database.url()).await);
        let mut schema = BTreeMap::new();
        for table in tables(kind, &mut raw).await {
            let columns: BTreeSet<_> = of(kind, &mut raw, &table).await.into_iter().collect();
            schema.insert(table, columns);
        }
        let copied: BTreeMap<_, _> = TABLES
            .iter()
            .map(|table| {
                (table.name.to_owned(), table.columns.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>())
            })
            .collect();
        assert_eq!(copied, schema);
    }

    async fn every_sealed_column_is_opened_for_the_proof(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        bring_up_to_date(&db).await.expect("it works");
        let (kind, mut raw) = (database.kind(), Raw::connect(database.kind(), database.url()).await);
        let mut sealed = Vec::new();
        for table in tables(kind, &mut raw).await {
            let columns = of(kind, &mut raw, &table).await;
            sealed.extend(columns.into_iter().filter(|name| name.contains("sealed")).map(|name| format!("{table}.{name}")));
        }
        sealed.sort();
        // Whoever adds one adds it to `store::proof`, and then here.
        let known = [
            "wx_account.secret_sealed",
            "wx_mirror.secret_sealed",
            "wx_mirror.target_sealed",
            "wx_token.previous_sealed",
            "wx_token.value_sealed",
        ];
        assert_eq!(sealed, known);
    }
}
