//! Where the tokens of an account are copied to.

use wxtoken::domain::mirror::{ConfiguredSecret, Layout, LayoutFields, MOST_MIRRORS, Mirror, NewMirror, Target};
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::seal::SealError;
use wxtoken::store::StoreError;
use wxtoken::store::mirror::{Creation, MirrorChange};

use super::fixture::{ACCESS, Home, actor, after, appid, noon};
use crate::support::database::on_every_database;

fn mirror(account: &str, target: &str, fields: LayoutFields, secret: Option<&str>) -> NewMirror {
    let secret = secret.map(|text| ConfiguredSecret::parse(text).expect("a secret"));
    let layout = Layout::parse(fields, secret).expect("a layout");
    NewMirror::new(appid(account), Target::parse(target).expect("a target"), layout).expect("they fit")
}

pub(super) fn easywechat(account: &str, target: &str, secret: &str) -> NewMirror {
    let fields = LayoutFields {
        format: "easywechat".to_owned(),
        prefix: Some("easywechat:".to_owned()),
        app: Some("mini_program".to_owned()),
        serializer: Some("plain".to_owned()),
        ..LayoutFields::default()
    };
    mirror(account, target, fields, Some(secret))
}

fn plain(account: &str, key: &str, value: &str) -> NewMirror {
    let fields = LayoutFields {
        format: "plain".to_owned(),
        token_type: Some("jsapi_ticket".to_owned()),
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
        ..LayoutFields::default()
    };
    mirror(account, "memcached://h:1", fields, None)
}

async fn create(home: &Home, new: &NewMirror, now: Timestamp) -> MirrorChange {
    match home.store.create_mirror(new, &actor(), now).await.expect("it runs") {
        Creation::Created(change) => *change,
        other => panic!("it should be made: {other:?}"),
    }
}

async fn listed(home: &Home, account: &str) -> Vec<Mirror> {
    let rows = home.store.mirrors(&appid(account)).await.expect("they read");
    rows.into_iter().map(|row| row.expect("it reads")).collect()
}

async fn changed_since(home: &Home, since: Timestamp) -> Vec<MirrorChange> {
    let rows = home.store.mirrors_changed_since(since).await.expect("they read");
    rows.into_iter().map(|row| row.expect("it reads")).collect()
}

on_every_database! {
    async fn a_mirror_reads_back_as_it_was_made(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let target = "redis://me:pa%40ss@h/7";
        let made = [
            create(&home, &easywechat("wx1", target, "wxt_s_configured"), after(1)).await,
            create(&home, &plain("wx1", &"k".repeat(250), &format!("{{value}}{}", " ".repeat(993))), after(2)).await,
        ];
        create(&home, &plain("wx2", "k", "{value}"), after(3)).await;
        let mirrors = listed(&home, "wx1").await;
        assert_eq!(mirrors.iter().map(|mirror| &mirror.id).collect::<Vec<_>>(), [&made[0].id, &made[1].id]);
        for (mirror, made) in mirrors.iter().zip(&made) {
            let fresh = made.mirror.as_ref().expect("it is there");
            assert_eq!(mirror.layout.fields(), fresh.layout.fields());
            assert_eq!((mirror.keys(), mirror.created_at), (fresh.keys(), fresh.created_at));
            assert_eq!(mirror.target.expose(), fresh.target.expose());
            assert_eq!(made.revision, 1);
        }
        assert_eq!(mirrors[0].layout.secret().map(ConfiguredSecret::expose), Some("wxt_s_configured"));
        assert_eq!(mirrors[0].target.expose(), target);
        let sql = "SELECT detail FROM wx_audit WHERE action = 'mirror.create' AND subject = 'wx1' ORDER BY id";
        let audit = home.raw().await.rows(sql).await.remove(0).remove(0).expect("a text");
        assert_eq!(audit, format!("{} easywechat redis://me@h:6379/7", made[0].id));
    }

    async fn a_removal_is_told_and_leaves_no_secret(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let made = create(&home, &easywechat("wx1", "redis://:pass@h", "configured"), after(1)).await;
        let other = create(&home, &plain("wx1", "k", "{value}"), after(2)).await;
        let remove = async |account: &str, id: &str| {
            home.store.remove_mirror(&appid(account), id, &actor(), after(10)).await.expect("it runs")
        };
        assert!(remove("wx2", &made.id).await.is_none(), "not another account's");
        let removed = remove("wx1", &made.id).await.expect("it was there");
        assert_eq!((removed.revision, removed.mirror.is_none()), (2, true));
        assert!(remove("wx1", &made.id).await.is_none(), "not twice");
        let told = changed_since(&home, after(10)).await;
        assert_eq!(told.iter().map(|change| (&change.id, change.revision)).collect::<Vec<_>>(), [(&made.id, 2)]);
        assert!(told[0].mirror.is_none());
        assert_eq!(changed_since(&home, after(2)).await.len(), 2);
        assert_eq!(listed(&home, "wx1").await.iter().map(|mirror| &mirror.id).collect::<Vec<_>>(), [&other.id]);
        let sql = "SELECT COUNT(*) FROM wx_mirror WHERE removed_at IS NOT NULL AND target_sealed IS NULL AND secret_sealed IS NULL";
        assert_eq!(home.raw().await.one(sql).await, "1");
        assert_eq!(home.raw().await.one("SELECT COUNT(*) FROM wx_audit WHERE action = 'mirror.remove'").await, "1");
    }

    async fn an_account_has_so_many_mirrors_and_takes_them_along(database: TestDatabase) {
        let home = Home::new(database).await;
        let nobody = home.store.create_mirror(&plain("wx1", "k", "{value}"), &actor(), noon()).await.expect("it runs");
        assert!(matches!(nobody, Creation::NoAccount));
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        for number in 0..MOST_MIRRORS {
            create(&home, &plain("wx1", &format!("k{number}"), "{value}"), after(1)).await;
        }
        let one_more = plain("wx1", "one-more", "{value}");
        let refused = home.store.create_mirror(&one_more, &actor(), after(2)).await.expect("it runs");
        assert!(matches!(refused, Creation::TooMany));
        create(&home, &plain("wx2", "k", "{value}"), after(2)).await;
        home.store.remove_account("wx1", &actor(), after(3)).await.expect("it runs").expect("it was there");
        let gone = changed_since(&home, after(3)).await;
        assert_eq!(gone.len(), MOST_MIRRORS as usize);
        assert!(gone.iter().all(|change| change.mirror.is_none() && change.revision == 2));
        let refused = home.store.create_mirror(&one_more, &actor(), after(4)).await.expect("it runs");
        assert!(matches!(refused, Creation::NoAccount));
        home.register("wx1", &[ACCESS], after(5)).await;
        assert!(listed(&home, "wx1").await.is_empty(), "it begins anew without any");
        assert_eq!(listed(&home, "wx2").await.len(), 1);
    }

    async fn mirrors_that_an_older_program_left_do_not_come_back_with_the_account(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        create(&home, &easywechat("wx1", "redis://:pass@h", "configured"), after(1)).await;
        // A program from before there were mirrors removes no more than this.
        let sql = "UPDATE wx_account SET removed_at = 1, secret_sealed = NULL, revision = revision + 1 WHERE appid = 'wx1'";
        home.raw().await.run(sql).await;
        home.register("wx1", &[ACCESS], after(2)).await;
        assert!(listed(&home, "wx1").await.is_empty());
        let told = changed_since(&home, after(2)).await;
        assert!(matches!(&told[..], [MirrorChange { revision: 2, mirror: None, .. }]), "{told:?}");
        let sql = "SELECT COUNT(*) FROM wx_mirror WHERE target_sealed IS NOT NULL OR secret_sealed IS NOT NULL";
        assert_eq!(home.raw().await.one(sql).await, "0");
    }

    async fn a_target_moved_to_another_mirror_does_not_open(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let one = create(&home, &easywechat("wx1", "redis://:one@h", "first"), after(1)).await;
        let other = create(&home, &easywechat("wx1", "redis://:other@i", "second"), after(2)).await;
        let mut raw = home.raw().await;
        for column in ["target_sealed", "secret_sealed"] {
            let moved = raw.one(&format!("SELECT {column} FROM wx_mirror WHERE id = '{}'", other.id)).await;
            let own = raw.one(&format!("SELECT {column} FROM wx_mirror WHERE id = '{}'", one.id)).await;
            raw.run(&format!("UPDATE wx_mirror SET {column} = '{moved}' WHERE id = '{}'", one.id)).await;
            let rows = home.store.mirrors(&appid("wx1")).await.expect("they read");
            let broken = rows.iter().filter_map(|row| row.as_ref().err()).collect::<Vec<_>>();
            assert!(matches!(broken[..], [StoreError::Sealed { table: "wx_mirror", source: SealError::Altered, .. }]));
            raw.run(&format!("UPDATE wx_mirror SET {column} = '{own}' WHERE id = '{}'", one.id)).await;
        }
        raw.run(&format!("UPDATE wx_mirror SET format = 'memory' WHERE id = '{}'", one.id)).await;
        let rows = home.store.mirrors_changed_since(Timestamp::ZERO).await.expect("they read");
        let broken = rows.iter().filter_map(|row| row.as_ref().err()).collect::<Vec<_>>();
        assert!(matches!(broken[..], [StoreError::Corrupt { table: "wx_mirror", column: "format", .. }]), "{broken:?}");
        assert_eq!(rows.len(), 2, "the other one reads");
    }
}
