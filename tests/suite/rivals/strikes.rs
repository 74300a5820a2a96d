//! How each fault of a plan is brought about, and how it is known that it struck.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use wxtoken::wechat::sandbox::Line;

use super::instance::Instance;
use super::plan::{Account, Event, What};
use super::record::Of;
use super::scene::{Scene, secret};
use crate::support::api::Api;
use crate::support::clock::HostClock;
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::within;

/// After it an admin's request that is not answered is given up.
const ADMIN_BOUND: Duration = Duration::from_secs(5);
/// Within this a reader meets a dead token and reports it, if the token is there to be read and WeChat answers.
const REPORT_BOUND: Duration = Duration::from_secs(3);

impl Scene {
    /// Every fault of the plan at its time, and the end of all of them.
    pub(super) async fn strike_all(&self) {
        join_all(self.plan.events.iter().map(async |event| {
            tokio::time::sleep(event.at).await;
            self.strike(event).await;
        }))
        .await;
    }

    async fn strike(&self, event: &Event) {
        let (name, lasting) = (event.what.name(), event.lasting);
        let times = match &event.what {
            What::Kill(number) => {
                let down = self.restart(*number, lasting, async |instance| instance.kill().await);
                self.in_trouble(Of::Down(*number), down).await
            }
            What::Terminate(number) => {
                let down = self.restart(*number, lasting, async |instance| instance.terminate().await);
                self.in_trouble(Of::Down(*number), down).await
            }
            What::Stop(number) => self.in_trouble(Of::Frozen(*number), self.freeze(*number, lasting)).await,
            What::Database(number, fault) => {
                let broken = breakage(&self.instances[*number].to_database, *fault, lasting);
                self.in_trouble(Of::Database(*number), broken).await
            }
            What::Wechat(number, fault) => {
                let broken = breakage(&self.instances[*number].to_wechat, *fault, lasting);
                let (times, ()) =
                    tokio::join!(self.in_trouble(Of::Wechat(*number), broken), self.call_through(*number));
                times
            }
            What::Answers(account, kind) => {
                let account = &self.plan.accounts[*account];
                self.in_trouble(Of::Account(account.appid.clone()), self.spoil(account, kind, lasting)).await
            }
            What::ForeignMint(account) => {
                self.end_token(&self.plan.accounts[*account], |sandbox, appid, line| {
                    // The first leaves the value its overlap.
                    for _ in 0..2 {
                        sandbox.mint_foreign(appid, line).expect("the account is there");
                    }
                })
                .await
            }
            What::Withdraw(account) => {
                self.end_token(&self.plan.accounts[*account], |sandbox, appid, line| {
                    sandbox.kill(appid, line).expect("the account is there");
                })
                .await
            }
            What::Refresh(instance, account) => {
                self.order(*instance, &self.plan.accounts[*account].appid).await;
                // The rows of the history count these.
                0
            }
            What::Edit(instance, account) => self.edit(*instance, &self.plan.accounts[*account]).await,
            What::Clock(instance, hours) => {
                self.instances[*instance].set_clock(*hours);
                tokio::time::sleep(HostClock::DELAY).await;
                // So that it logs something: its stamps tell at the end whether the clock has jumped.
                self.call_through(*instance).await;
                0
            }
        };
        self.struck(name, times);
    }

    async fn restart(&self, number: usize, pause: Duration, end: impl AsyncFnOnce(&Instance)) -> u64 {
        let instance = &self.instances[number];
        end(instance).await;
        tokio::time::sleep(pause).await;
        instance.start().await;
        1
    }

    async fn freeze(&self, number: usize, lasting: Duration) -> u64 {
        let Some(server) = self.instances[number].server() else { return 0 };
        // In the middle of a call, if it comes to that.
        self.call_through(number).await;
        server.stop();
        tokio::time::sleep(lasting).await;
        server.cont();
        1
    }

    /// Has this instance call WeChat for a token, without waiting for what comes of it.
    async fn call_through(&self, number: usize) {
        let Some((_, admin)) = self.instances[number].admin() else { return };
        for account in self.plan.accounts.iter().filter(|account| account.secret_is_right).take(2) {
            let path = format!("/v1/accounts/{}/tokens/access_token/refresh", account.appid);
            tokio::spawn(send(admin.clone(), Method::POST, path, json!({ "force": false })));
        }
        // Time for the calls to go out; a state to wait for there is none.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    /// The sandbox's own fault for every call of an account.
    async fn spoil(&self, account: &Account, kind: &str, lasting: Duration) -> u64 {
        let appid = &account.appid;
        let struck = || self.sandbox.calls(appid).iter().filter(|call| call.fault.is_some()).count();
        let before = struck();
        self.sandbox.faults(appid, &json!([{ "kind": kind }]));
        tokio::join!(self.order(0, appid), tokio::time::sleep(lasting));
        self.sandbox.faults(appid, &json!([]));
        (struck() - before) as u64
    }

    /// Ends an account's token at WeChat behind our back, and waits for a reader to notice.
    async fn end_token(
        &self,
        account: &Account,
        end: impl FnOnce(&wxtoken::wechat::sandbox::Sandbox, &str, Line),
    ) -> u64 {
        let before = self.repairs(&account.appid);
        let line = if account.mode == "plain" { Line::Plain } else { Line::Stable };
        end(&self.sandbox.sandbox, &account.appid, line);
        let repaired = within(REPORT_BOUND, async || (self.repairs(&account.appid) > before).then_some(())).await;
        u64::from(repaired.is_some())
    }

    async fn order(&self, number: usize, appid: &str) {
        let Some((_, admin)) = self.instances[number].admin() else { return };
        let path = format!("/v1/accounts/{appid}/tokens/access_token/refresh");
        send(admin, Method::POST, path, json!({ "force": false })).await;
    }

    async fn edit(&self, number: usize, account: &Account) -> u64 {
        let Some((_, admin)) = self.instances[number].admin() else { return 0 };
        // An edit without an answer may have been made all the same.
        self.edited(&account.appid);
        let path = format!("/v1/accounts/{}", account.appid);
        let status = send(admin, Method::PATCH, path, json!({ "secret": secret(account) })).await;
        u64::from(status == 200)
    }
}

/// The status of the answer; 0 if there is none.
async fn send(admin: Api, method: Method, path: String, body: Value) -> u16 {
    let request = admin.request(method, &path).header("content-type", "application/json");
    let answer = request.body(body.to_string()).timeout(ADMIN_BOUND).send().await;
    answer.map_or(0, |answer| answer.status().as_u16())
}

async fn breakage(proxy: &Proxy, fault: Fault, lasting: Duration) -> u64 {
    let before = proxy.struck_by(fault);
    proxy.set(fault);
    tokio::time::sleep(lasting).await;
    proxy.heal();
    proxy.struck_by(fault) - before
}
