//! Copies a whole deployment into another database, row by row as it stands: a sealed text is bound to its row and column, not to its
//! database, so it opens in the copy as it is.
//!
//! A copy can be broken off and repeated at any time: each batch is a transaction that writes only what is missing or different. The target
//! must be empty, or **behind the source in everything**: no row that the source does not have, and no token that has been claimed or edited
//! more often. Whatever a server does leaves such a trace: a claim counts up the token's generation, an edit its revision, and a change of
//! an account, a key or a mirror leaves a row in the audit. So a target that has been served, or that is another deployment's, is refused before the first
//! write. History that the source has pruned since is the one exception: it is pruned in the target, too.

mod rows;

use std::time::Duration;

pub use rows::Table;
use rows::{AccountRow, AuditRow, HistoryRow, KeyRow, MANY, MasterKeyRow, MirrorRow, Stored, TokenRow};

use super::db::{Db, Value};
use super::{StoreError, history};
use crate::domain::timestamp::Timestamp;

/// Every table, in the order in which they are copied. Accounts and their tokens come last: until they are there, nothing can be served.
pub const TABLES: [Table; 7] = [
    MasterKeyRow::TABLE,
    HistoryRow::TABLE,
    AuditRow::TABLE,
    KeyRow::TABLE,
    MirrorRow::TABLE,
    AccountRow::TABLE,
    TokenRow::TABLE,
];

/// Rows in a transaction, which must be far from its deadline, and in memory.
const BATCH: usize = 500;
/// Counting the rows of a large table on a slow disk takes its time.
const COUNTING: Duration = Duration::from_mins(10);
const PRUNED: u32 = 500;

/// How many rows a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
}

/// What is told on the way.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// About how many rows there are to handle in all.
    Total(u64),
    /// So many more rows are done.
    Rows(u64),
    /// A table is copied.
    Copied(Tally),
}

/// Whether a row of the target may be there, given the source's row of the same key. History that started before `kept_since` has
/// been pruned from the source.
trait Copied: Stored {
    fn is_behind(&self, source: Option<&Self>, _kept_since: i64) -> bool {
        source.is_some()
    }
}

impl Copied for MasterKeyRow {}
impl Copied for AuditRow {}
impl Copied for KeyRow {}
impl Copied for MirrorRow {}
impl Copied for AccountRow {}

impl Copied for HistoryRow {
    fn is_behind(&self, source: Option<&Self>, kept_since: i64) -> bool {
        source.is_some() || self.started_at < kept_since
    }
}

impl Copied for TokenRow {
    fn is_behind(&self, source: Option<&Self>, _kept_since: i64) -> bool {
        source.is_some_and(|source| self.generation <= source.generation && self.revision <= source.revision)
    }
}

/// Runs an expression for the rows of each table, in the order of [`TABLES`].
macro_rules! for_each_table {
    ($row:ident => $work:expr) => {
        for_each_table!($row => $work; MasterKeyRow HistoryRow AuditRow KeyRow MirrorRow AccountRow TokenRow)
    };
    ($row:ident => $work:expr; $($each:ident)+) => {
        $({
            type $row = $each;
            $work;
        })+
    };
}

/// Copies everything from `source` to `target`, whose schemas must be up to date, and then compares both, row by row. Nobody else may
/// write to either.
///
/// # Errors
/// [`StoreError::NotBehind`] before the first write when the target is not empty and no earlier state of the source.
pub async fn copy(source: &Db, target: &Db, progress: &mut impl FnMut(Progress)) -> Result<Vec<Tally>, StoreError> {
    let (here, there) = (total(&tally(source).await?), total(&tally(target).await?));
    progress(Progress::Total(there + 2 * here));
    let kept_since = kept_since(source).await?;
    for_each_table!(Row => check::<Row>(source, target, kept_since, progress).await?);
    while history::prune(target, Timestamp::from_millis(kept_since), PRUNED).await? >= u64::from(PRUNED) {}
    for_each_table!(Row => fill::<Row>(source, target, kept_since, progress).await?);
    let mut tallies = Vec::new();
    for_each_table!(Row => tallies.push(compare::<Row>(source, target, progress).await?));
    Ok(tallies)
}

/// Counts the rows of every table that is there.
pub async fn tally(db: &Db) -> Result<Vec<Tally>, StoreError> {
    let mut tallies = Vec::new();
    for_each_table!(Row => {
        let table = Row::TABLE.name;
        if db.table_exists(table).await? {
            let counted: Vec<(i64,)> = db.fetch_all_within(COUNTING, Row::COUNT, &[]).await?;
            let rows = counted.first().map_or(0, |(rows,)| rows.unsigned_abs());
            tallies.push(Tally { table, rows });
        }
    });
    Ok(tallies)
}

fn total(tallies: &[Tally]) -> u64 {
    tallies.iter().map(|tally| tally.rows).sum()
}

/// The start of the oldest call that the source still has.
async fn kept_since(source: &Db) -> Result<i64, StoreError> {
    let oldest: Option<(Option<i64>,)> =
        source.fetch_optional("SELECT MIN(started_at) FROM wx_refresh_history", &[]).await?;
    Ok(oldest.and_then(|(oldest,)| oldest).unwrap_or(Timestamp::NEVER.as_millis()))
}

/// Refuses a target that is not behind the source. Writes nothing.
async fn check<R: Copied>(
    source: &Db,
    target: &Db,
    kept_since: i64,
    progress: &mut impl FnMut(Progress),
) -> Result<(), StoreError> {
    let mut after = Place::start::<R>();
    loop {
        let there: Vec<R> = page(target, &after).await?;
        if there.is_empty() {
            return Ok(());
        }
        let here: Vec<R> = page(source, &after).await?;
        // Only as far as both pages reach can be judged now.
        let end = match (there.last(), here.last()) {
            (Some(there), Some(here_last)) if here.len() == BATCH => there.key().min(here_last.key()),
            (last, _) => last.map(Stored::key).unwrap_or_default(),
        };
        let judged = &there[..there.partition_point(|row| row.key() <= end)];
        ensure_behind(judged, &here, kept_since)?;
        progress(Progress::Rows(judged.len() as u64));
        after = Place::behind(&end);
    }
}

/// Writes what the target lacks and what differs there.
async fn fill<R: Copied>(
    source: &Db,
    target: &Db,
    kept_since: i64,
    progress: &mut impl FnMut(Progress),
) -> Result<(), StoreError> {
    let mut after = Place::start::<R>();
    let mut rows = 0;
    loop {
        let here: Vec<R> = page(source, &after).await?;
        let Some(last) = here.last() else { break };
        let up_to = Place::behind(&last.key());
        fill_range(target, &after, &up_to, &here, kept_since).await?;
        rows += here.len() as u64;
        progress(Progress::Rows(here.len() as u64));
        after = up_to;
    }
    progress(Progress::Copied(Tally { table: R::TABLE.name, rows }));
    Ok(())
}

/// Makes the target's rows in a range those of `here`, in one transaction.
async fn fill_range<R: Copied>(
    target: &Db,
    after: &Place,
    up_to: &Place,
    here: &[R],
    kept_since: i64,
) -> Result<(), StoreError> {
    let mut tx = target.begin().await?;
    let range: Vec<Value<'_>> = after.values().chain(up_to.values()).collect();
    let there: Vec<R> = tx.fetch_all(R::LOCK, &range).await?;
    // Once more: now the rows are locked, and a server that somebody started in the meantime cannot move on.
    ensure_behind(&there, here, kept_since)?;
    let mut missing = Vec::new();
    for row in here {
        match find(&there, row) {
            Some(present) if present == row => continue,
            Some(_) => drop(tx.execute(R::DELETE, &texts(&row.key())).await?),
            None => {}
        }
        missing.push(row);
    }
    let (many, few) = missing.split_at(missing.len() / MANY * MANY);
    for rows in many.chunks(MANY) {
        let values: Vec<Value<'_>> = rows.iter().flat_map(|row| row.values()).collect();
        tx.execute(R::insert_many(), &values).await?;
    }
    for row in few {
        tx.execute(R::INSERT, &row.values()).await?;
    }
    tx.commit().await
}

/// Holds every row of one database against the other's.
async fn compare<R: Copied>(
    source: &Db,
    target: &Db,
    progress: &mut impl FnMut(Progress),
) -> Result<Tally, StoreError> {
    let table = R::TABLE.name;
    let mut after = Place::start::<R>();
    let mut rows = 0;
    loop {
        let here: Vec<R> = page(source, &after).await?;
        if here != page(target, &after).await? {
            return Err(StoreError::CopyDiffers { table });
        }
        let Some(last) = here.last() else { return Ok(Tally { table, rows }) };
        rows += here.len() as u64;
        progress(Progress::Rows(here.len() as u64));
        after = Place::behind(&last.key());
    }
}

/// The next rows behind a place.
async fn page<R: Stored>(db: &Db, after: &Place) -> Result<Vec<R>, StoreError> {
    let limit = Value::Int(i64::try_from(BATCH).unwrap_or(i64::MAX));
    db.fetch_all(R::PAGE, &after.values().chain([limit]).collect::<Vec<_>>()).await
}

fn ensure_behind<R: Copied>(there: &[R], here: &[R], kept_since: i64) -> Result<(), StoreError> {
    match there.iter().find(|row| !row.is_behind(find(here, row), kept_since)) {
        Some(row) => Err(StoreError::NotBehind { table: R::TABLE.name, row: row.key().join(", ") }),
        None => Ok(()),
    }
}

/// The row with the same key; `rows` are in the order of their keys.
fn find<'a, R: Stored>(rows: &'a [R], like: &R) -> Option<&'a R> {
    rows.binary_search_by(|row| row.key().cmp(&like.key())).ok().map(|at| &rows[at])
}

fn texts<'a>(key: &[&'a str]) -> Vec<Value<'a>> {
    key.iter().map(|text| Value::Text(text)).collect()
}

/// A place behind the row of this key. Empty texts stand before every key.
struct Place(Vec<String>);

impl Place {
    fn start<R: Stored>() -> Self {
        Self(vec![String::new(); R::KEYS])
    }

    fn behind(key: &[&str]) -> Self {
        Self(key.iter().map(|text| (*text).to_owned()).collect())
    }

    fn values(&self) -> impl Iterator<Item = Value<'_>> {
        self.0.iter().map(|text| Value::Text(text))
    }
}
