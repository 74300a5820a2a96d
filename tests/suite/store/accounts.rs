//! Registering, listing and changing accounts.

use std::collections::BTreeSet;

use wxtoken::domain::account::{Account, AccountPatch, Mode, NewAccount};
use wxtoken::domain::timestamp::Timestamp;

use super::fixture::{ACCESS, CARD, Home, JSAPI, account, actor, after, appid, key, noon, secret, types};
use crate::support::database::on_every_database;

async fn change(home: &Home, appid: &str, patch: AccountPatch, now: Timestamp) -> Account {
    let changed = home.store.update_account(appid, &patch, &actor(), now).await.expect("the change is written");
    changed.expect("there is such an account").account
}

on_every_database! {
    async fn an_account_reads_back_as_it_was_registered(database: TestDatabase) {
        let home = Home::new(database).await;
        let new = NewAccount {
            name: "面馆 🍜 \u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} 'quoted'".to_owned(),
            note: "第一行\nline two".to_owned(),
            mode: Mode::Plain,
            token_types: types(&[ACCESS, JSAPI, CARD]),
            ..account("wx_1-A")
        };
        let created = home.store.create_account(&new, &actor(), noon()).await.expect("it is written").expect("it is new");
        assert!(!created.removed);
        assert_eq!(created.revision, 1);
        let found = home.store.account("wx_1-A").await.expect("it reads").expect("it is there");
        assert_eq!(found, created.account);
        assert_eq!((&found.name, &found.note, found.mode), (&new.name, &new.note, Mode::Plain));
        assert_eq!((found.created_at, found.updated_at, found.enabled), (noon(), noon(), true));
        let secret = home.store.app_secret(&found.appid).await.expect("they open").expect("they are there");
        assert_eq!(secret.expose(), "secret-of-wx_1-A");
        for token_type in [ACCESS, JSAPI, CARD] {
            let token = home.token(&key("wx_1-A", token_type)).await;
            assert_eq!((token.refresh_at, token.kept, token.mode, token.version), (noon(), true, Mode::Plain, 0));
        }
    }

    async fn an_account_that_is_not_there_is_none(database: TestDatabase) {
        let home = Home::new(database).await;
        assert!(home.store.account("wx1").await.expect("it reads").is_none());
        assert!(home.store.app_secret(&appid("wx1")).await.expect("it reads").is_none());
        assert!(home.store.token(&key("wx1", ACCESS)).await.expect("it reads").is_none());
        let patch = AccountPatch::default();
        assert!(home.store.update_account("wx1", &patch, &actor(), noon()).await.expect("it runs").is_none());
        assert!(home.store.remove_account("wx1", &actor(), noon()).await.expect("it runs").is_none());
    }

    async fn an_appid_is_registered_once(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let again = NewAccount { secret: secret("another"), name: "Again".to_owned(), ..account("wx1") };
        assert!(home.store.create_account(&again, &actor(), after(1)).await.expect("it runs").is_none());
        let kept = home.store.app_secret(&appid("wx1")).await.expect("they open").expect("they are there");
        assert_eq!(kept.expose(), "secret-of-wx1");
        assert_eq!(home.store.account("wx1").await.expect("it reads").expect("it is there").name, "Account wx1");
    }

    async fn of_twenty_at_once_one_registers_an_appid(database: TestDatabase) {
        let home = Home::new(database).await;
        let rivals = [home.rival("two").await, home.rival("three").await];
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let store = std::sync::Arc::clone(&rivals[number % 2]);
            let new = NewAccount { name: format!("Rival {number}"), ..account("wx1") };
            tasks.spawn(async move { store.create_account(&new, &actor(), noon()).await });
        }
        let results = tasks.join_all().await;
        let won: Vec<_> = results.into_iter().filter_map(|result| result.expect("nobody fails")).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(home.store.account("wx1").await.expect("it reads"), Some(won[0].account.clone()));
        let mut raw = home.raw().await;
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_audit WHERE action = 'account.create'").await, "1");
    }

    async fn pages_of_accounts_walk_all_in_byte_order(database: TestDatabase) {
        let home = Home::new(database).await;
        let names = ["wxb", "wx-1", "wxB", "wx_1", "wxa", "wxA", "wx10", "wx9"];
        for name in names {
            home.register(name, &[ACCESS], noon()).await;
        }
        home.store.remove_account("wx9", &actor(), after(1)).await.expect("it is removed").expect("it was there");
        let (mut walked, mut last) = (Vec::new(), None::<String>);
        loop {
            let page = home.store.accounts(last.as_deref(), 3).await.expect("the page reads");
            assert!(page.len() <= 3);
            walked.extend(page.iter().map(|account| account.appid.to_string()));
            match page.last() {
                Some(account) => last = Some(account.appid.to_string()),
                None => break,
            }
        }
        let sorted: BTreeSet<_> = names.into_iter().filter(|name| *name != "wx9").map(str::to_owned).collect();
        assert_eq!(walked, sorted.into_iter().collect::<Vec<_>>());
    }

    async fn two_spellings_of_an_appid_are_two_accounts(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wxA", &[ACCESS], noon()).await;
        home.register("wxa", &[ACCESS], noon()).await;
        assert!(home.store.account("WXA").await.expect("it reads").is_none());
        change(&home, "wxa", AccountPatch { name: Some("small".to_owned()), ..AccountPatch::default() }, after(1)).await;
        home.give(&key("wxa", ACCESS), "value-of-small", after(2)).await;
        home.store.remove_account("wxa", &actor(), after(3)).await.expect("it is removed").expect("it was there");
        let kept = home.store.account("wxA").await.expect("it reads").expect("it stays");
        assert_eq!((kept.appid.as_str(), kept.name.as_str()), ("wxA", "Account wxA"));
        assert_eq!(home.token(&key("wxA", ACCESS)).await.generation, 0);
    }

    async fn each_field_changes_by_itself(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let before = home.store.account("wx1").await.expect("it reads").expect("it is there");
        let empty = AccountPatch::default;
        let named = change(&home, "wx1", AccountPatch { name: Some("新名字 🎉".to_owned()), ..empty() }, after(1)).await;
        assert_eq!(named, Account { name: "新名字 🎉".to_owned(), updated_at: after(1), ..before });
        let noted = change(&home, "wx1", AccountPatch { note: Some("n".repeat(1_000)), ..empty() }, after(2)).await;
        assert_eq!(noted, Account { note: "n".repeat(1_000), updated_at: after(2), ..named });
        let plain = change(&home, "wx1", AccountPatch { mode: Some(Mode::Plain), ..empty() }, after(3)).await;
        assert_eq!(plain, Account { mode: Mode::Plain, updated_at: after(3), ..noted });
        let typed =
            change(&home, "wx1", AccountPatch { token_types: Some(types(&[JSAPI])), ..empty() }, after(4)).await;
        assert_eq!(typed, Account { token_types: types(&[ACCESS, JSAPI]), updated_at: after(4), ..plain });
        let off = change(&home, "wx1", AccountPatch { enabled: Some(false), ..empty() }, after(5)).await;
        assert_eq!(off, Account { enabled: false, updated_at: after(5), ..typed });
        let sealed = change(&home, "wx1", AccountPatch { secret: Some(secret("new-secret")), ..empty() }, after(6)).await;
        assert_eq!(sealed, Account { updated_at: after(6), ..off });
        assert_eq!(home.store.account("wx1").await.expect("it reads"), Some(sealed));
        let secret = home.store.app_secret(&appid("wx1")).await.expect("they open").expect("they are there");
        assert_eq!(secret.expose(), "new-secret");
    }

    async fn changes_are_told_to_the_live_view_and_to_the_audit(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], after(10)).await;
        let patch = AccountPatch { secret: Some(secret("x")), note: Some("y".to_owned()), ..AccountPatch::default() };
        change(&home, "wx1", patch, after(20)).await;
        home.store.remove_account("wx2", &actor(), after(30)).await.expect("it is removed").expect("it was there");
        let changed = home.store.accounts_changed_since(after(20)).await.expect("they read");
        let mut seen: Vec<_> = changed
            .into_iter()
            .map(|change| change.expect("the row reads"))
            .map(|change| (change.account.appid.to_string(), change.revision, change.removed))
            .collect();
        seen.sort();
        assert_eq!(seen, [("wx1".to_owned(), 2, false), ("wx2".to_owned(), 2, true)]);
        assert!(home.store.accounts_changed_since(after(31)).await.expect("they read").is_empty());
        let sql = "SELECT action, subject, detail, actor, request_id FROM wx_audit ORDER BY happened_at";
        let audit: Vec<_> = home.raw().await.rows(sql).await.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>()).collect();
        assert_eq!(audit[2], ["account.update", "wx1", "secret,note", "管理员 admin", "req-1"]);
        assert_eq!(audit[3][..2], ["account.remove", "wx2"]);
    }
}
