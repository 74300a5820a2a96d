//! The credentials that we issue.

use std::sync::Arc;

use wxtoken::domain::account::AppId;
use wxtoken::domain::key::{AccountScope, Action, Actions, KeyText, Role};
use wxtoken::domain::path_rules::PathRules;
use wxtoken::domain::sdk::Sdk;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::store::StoreError;
use wxtoken::store::key::{HashedKey, NewKey, Revocation};

use super::fixture::{Home, actor, after, noon};
use crate::support::database::on_every_database;

pub(super) fn text(text: &str) -> KeyText {
    KeyText::parse(&format!("{text}_0123456789_abcdefghijklmnopqrstuvwxyz")).expect("a key's text")
}

pub(super) fn admin(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        role: Role::Admin,
        accounts: AccountScope::All,
        actions: Actions::of_role(Role::Admin),
        expires_at: Timestamp::NEVER,
        sdk: None,
        paths: PathRules::default(),
    }
}

fn service(appids: &[&str]) -> NewKey {
    NewKey {
        role: Role::Service,
        accounts: AccountScope::parse(appids.iter().copied()).expect("appids"),
        actions: Actions::of_role(Role::Service),
        ..admin("小程序 shop 🛒")
    }
}

async fn create(home: &Home, name: &str, new: &NewKey, now: Timestamp) -> HashedKey {
    home.store.create_key(&text(name), new, &actor(), now).await.expect("the key is written")
}

async fn revoke(home: &Home, key: &HashedKey, now: Timestamp) -> Revocation {
    home.store.revoke_key(&key.key.id, &actor(), now).await.expect("it runs")
}

on_every_database! {
    async fn a_key_is_found_by_its_hash_and_its_text_is_not_kept(database: TestDatabase) {
        let home = Home::new(database).await;
        let new = NewKey { expires_at: after(3_600), ..service(&["wxA", "wxa"]) };
        let made = create(&home, "service", &new, noon()).await;
        assert_eq!(made.hash, home.sealer.hash_key(text("service").expose()));
        assert_eq!(made.key.hint, "service_01");
        let listed = home.store.keys_changed_since(noon()).await.expect("they read");
        let [listed] = <[_; 1]>::try_from(listed).expect("there is one");
        let listed = listed.expect("it reads");
        assert_eq!((listed.hash, &listed.key), (made.hash, &made.key));
        assert_eq!(home.store.key(&made.key.id).await.expect("it reads"), Some(made.key.clone()));
        assert!(home.store.key("nobody").await.expect("it reads").is_none());
        assert_eq!((made.key.is_usable(after(3_599)), made.key.is_usable(after(3_600))), (true, false));
        assert!(made.key.accounts.contains("wxa") && !made.key.accounts.contains("WXA"));
        assert!(home.store.knows_key(&text("service")).await.expect("it reads"));
        assert!(!home.store.knows_key(&text("Service")).await.expect("it reads"));
        assert!(home.store.keys_changed_since(after(1)).await.expect("they read").is_empty());
    }

    async fn a_key_may_list_two_hundred_long_appids_and_every_action(database: TestDatabase) {
        let home = Home::new(database).await;
        let appids = (0..200).map(|number| AppId::parse(&format!("{number:064}")).expect("an appid")).collect();
        let actions = Action::ALL.into_iter().collect();
        let patterns: Vec<_> = (0..50).map(|number| format!("/{number:0198}*")).collect();
        let patterns = || patterns.iter().map(String::as_str);
        let paths = PathRules::parse(patterns(), patterns()).expect("patterns");
        let new =
            NewKey { accounts: AccountScope::Listed(appids), actions, paths, sdk: Some(Sdk::CoWechatApi), ..admin(&"名".repeat(100)) };
        let made = create(&home, "large", &new, noon()).await;
        assert_eq!(home.store.key(&made.key.id).await.expect("it reads"), Some(made.key));
    }

    async fn the_same_text_is_not_kept_twice(database: TestDatabase) {
        let home = Home::new(database).await;
        create(&home, "same", &admin("first"), noon()).await;
        let error = home.store.create_key(&text("same"), &admin("second"), &actor(), noon()).await;
        let error = error.expect_err("the hash is unique");
        assert_eq!(error.kind(), Some(wxtoken::store::FailureKind::Duplicate));
        assert_eq!(home.store.keys(None, 9).await.expect("they read").len(), 1);
    }

    async fn pages_of_keys_walk_all_in_the_order_of_their_making(database: TestDatabase) {
        let home = Home::new(database).await;
        for number in 0..7 {
            create(&home, &format!("key-{number}"), &admin(&number.to_string()), after(number)).await;
        }
        let (mut names, mut last) = (Vec::new(), None::<String>);
        loop {
            let page = home.store.keys(last.as_deref(), 3).await.expect("the page reads");
            names.extend(page.iter().map(|key| key.name.clone()));
            match page.last() {
                Some(key) => last = Some(key.id.clone()),
                None => break,
            }
        }
        assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6"]);
    }

    async fn a_revoked_key_is_told_to_the_live_view(database: TestDatabase) {
        let home = Home::new(database).await;
        let key = create(&home, "service", &service(&["*"]), noon()).await;
        assert_eq!(revoke(&home, &key, after(10)).await, Revocation::Revoked);
        assert_eq!(revoke(&home, &key, after(11)).await, Revocation::Absent);
        assert_eq!(home.store.revoke_key("nobody", &actor(), noon()).await.expect("it runs"), Revocation::Absent);
        let changed = home.store.keys_changed_since(after(10)).await.expect("they read").remove(0).expect("it reads");
        assert_eq!(changed.key.revoked_at, Some(after(10)));
        assert!(!changed.key.is_usable(after(10)));
        assert!(home.store.knows_key(&text("service")).await.expect("it reads"), "usable or not");
        let sql = "SELECT COUNT(*) FROM wx_audit WHERE action = 'key.revoke'";
        assert_eq!(home.raw().await.one(sql).await, "1");
    }

    async fn the_last_admin_key_that_opens_everything_stays(database: TestDatabase) {
        let home = Home::new(database).await;
        assert!(!home.store.has_admin_key(noon()).await.expect("it reads"));
        let first = create(&home, "first", &admin("first"), noon()).await;
        assert!(home.store.has_admin_key(noon()).await.expect("it reads"));
        create(&home, "expired", &NewKey { expires_at: after(5), ..admin("expired") }, noon()).await;
        let narrow = AccountScope::parse(["wx1"]).expect("appids");
        let narrow = create(&home, "narrow", &NewKey { accounts: narrow, ..admin("narrow") }, noon()).await;
        let service = create(&home, "service", &service(&["*"]), noon()).await;
        assert_eq!(revoke(&home, &first, after(6)).await, Revocation::LastAdmin);
        assert_eq!(revoke(&home, &narrow, after(6)).await, Revocation::Revoked);
        assert_eq!(revoke(&home, &service, after(6)).await, Revocation::Revoked);
        let second = create(&home, "second", &admin("second"), after(7)).await;
        assert_eq!(revoke(&home, &first, after(8)).await, Revocation::Revoked);
        assert_eq!(revoke(&home, &second, after(9)).await, Revocation::LastAdmin);
        assert!(home.store.has_admin_key(after(9)).await.expect("it reads"));
    }

    async fn two_admins_cannot_revoke_each_other_at_once(database: TestDatabase) {
        let home = Home::new(database).await;
        let rival = home.rival("two").await;
        for round in 0..10 {
            let names = [format!("left-{round}"), format!("right-{round}")];
            let left = create(&home, &names[0], &admin(&names[0]), noon()).await;
            let right = create(&home, &names[1], &admin(&names[1]), noon()).await;
            let revoke = |store: &Arc<wxtoken::store::Store>, id: &str| {
                let (store, id) = (Arc::clone(store), id.to_owned());
                tokio::spawn(async move { store.revoke_key(&id, &actor(), after(1)).await.expect("it runs") })
            };
            let (one, two) = tokio::join!(revoke(&home.store, &right.key.id), revoke(&rival, &left.key.id));
            let results = [one.expect("it ends"), two.expect("it ends")];
            assert!(results.contains(&Revocation::Revoked) && results.contains(&Revocation::LastAdmin), "{results:?}");
            assert!(home.store.has_admin_key(after(1)).await.expect("it reads"));
            home.raw().await.run("UPDATE wx_key SET revoked_at = 1").await;
        }
    }

    async fn a_key_that_does_not_read_is_named_and_does_not_hide_the_others(database: TestDatabase) {
        let home = Home::new(database).await;
        let (spoiled, good) = (create(&home, "spoiled", &admin("a"), noon()).await, create(&home, "good", &admin("b"), noon()).await);
        let mut raw = home.raw().await;
        raw.run(&format!("UPDATE wx_key SET actions = 'world:rule' WHERE id = '{}'", spoiled.key.id)).await;
        let listed = home.store.keys_changed_since(noon()).await.expect("they read");
        let error = listed.iter().find_map(|key| key.as_ref().err()).expect("one is reported");
        assert!(matches!(error, StoreError::Corrupt { table: "wx_key", column: "actions", .. }), "{error}");
        assert_eq!(listed.iter().filter(|key| key.is_ok()).count(), 1);
        assert_eq!(revoke(&home, &good, after(1)).await, Revocation::LastAdmin, "one that nobody can use does not count");
        assert_eq!(revoke(&home, &spoiled, after(1)).await, Revocation::Revoked, "but it can be revoked");
    }
}
