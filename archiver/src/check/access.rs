//! Who a connection is, what it may do and what anybody on the way may read: the account, its privileges, the transport.

use std::collections::BTreeSet;

use bson::{Bson, Document, doc};

use super::Findings;
use super::roles::{Need, Privilege, beyond, lacking, privileges};
use crate::config::Secret;
use crate::deployment::transport::transport;
use crate::deployment::{Client, NO_ACCOUNT, code, mongo_error};
use crate::error::{Error, Result};

/// One deployment as this connection sees it.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// The members' addresses; empty behind mongos.
    pub(super) hosts: Vec<String>,
    /// `None`: the server asks for none.
    pub(super) account: Option<Account>,
}

/// An account as the server knows it.
#[derive(Debug)]
pub(super) struct Account {
    /// `user@database`
    pub(super) name: String,
    roles: Vec<String>,
    pub(super) privileges: Vec<Privilege>,
}

impl Side {
    /// Asks the server that said this `hello`. Fails as unavailable where it wants an account and the URI has none.
    pub(super) async fn ask(client: &Client, hello: &Document) -> Result<Side> {
        let admin = client.database("admin");
        let status = admin.run_command(doc! {"connectionStatus": 1, "showPrivileges": true}).await;
        let status = status.map_err(|e| mongo_error("asking for the account", e))?;
        let mut hosts: Vec<String> =
            list(hello, "hosts").iter().filter_map(|h| h.as_str().map(str::to_owned)).collect();
        hosts.sort();
        let account = Account::read(status.get_document("authInfo").unwrap_or(&Document::new()));
        if account.is_none() {
            let tried = doc! {"listDatabases": 1, "nameOnly": true, "authorizedDatabases": false};
            const UNAUTHORIZED: i32 = 13;
            if admin.run_command(tried).await.is_err_and(|e| code(&e) == Some(UNAUTHORIZED)) {
                let error =
                    Error::unavailable("the server asks for an account, and the MongoDB URI has none");
                return Err(error.hint(NO_ACCOUNT));
            }
        }
        Ok(Side { hosts, account })
    }

    /// Whether both are one deployment.
    pub(super) fn is(&self, other: &Side) -> bool {
        !self.hosts.is_empty() && self.hosts == other.hosts
    }

    /// Says who the account is and what it lacks of the needs, and of what would only be good to have.
    pub(super) fn report(&self, about: &str, needs: &[Need], wishes: &[Need], findings: &mut Findings) {
        let Some(account) = &self.account else {
            let hint = "run mongod with --auth, and create the accounts of deploy/mongodb-roles.js";
            findings.warn(
                about,
                "no account: anybody who reaches the server may read, change and delete",
                hint,
            );
            return;
        };
        let missing = lacking(&account.privileges, needs);
        if missing.is_empty() {
            let Account { name, roles, .. } = account;
            findings.ok(about, format!("account {name} may do what is needed, roles {}", roles.join(", ")));
        }
        let lacks = |what: &str| format!("the account {} lacks {what}", account.name);
        let grant = |role: &str| {
            format!("grant it role {role}, as deploy/mongodb-roles.js defines it for this configuration")
        };
        for (role, what) in missing {
            findings.fail(about, &Error::unavailable(lacks(&what)).hint(grant(role)));
        }
        for (role, what) in lacking(&account.privileges, wishes) {
            findings.warn(about, lacks(&what), &grant(role));
        }
    }

    /// Warns where the account may change more of these databases than the needs ask for.
    pub(super) fn report_beyond(
        &self,
        about: &str,
        needs: &[Need],
        databases: &BTreeSet<&str>,
        findings: &mut Findings,
    ) {
        let Some(account) = &self.account else { return };
        let more = beyond(&account.privileges, needs, databases);
        if !more.is_empty() {
            let what = format!("the account {} may do more than Archiver needs: {more}", account.name);
            findings.warn(about, what, "give it the roles of deploy/mongodb-roles.js and no others");
        }
    }
}

impl Account {
    fn read(auth: &Document) -> Option<Account> {
        let user = list(auth, "authenticatedUsers").first()?.as_document()?;
        let role = |r: &Bson| r.as_document()?.get_str("role").ok().map(str::to_owned);
        Some(Account {
            name: format!("{}@{}", user.get_str("user").ok()?, user.get_str("db").unwrap_or_default()),
            roles: list(auth, "authenticatedUserRoles").iter().filter_map(role).collect(),
            privileges: privileges(list(auth, "authenticatedUserPrivileges")),
        })
    }
}

fn list<'a>(document: &'a Document, key: &str) -> &'a [Bson] {
    document.get_array(key).map_or(&[], Vec::as_slice)
}

/// Warns of connections that others on the way may read or pretend to be.
pub(super) async fn report_transport(about: &str, uri: &Secret, findings: &mut Findings) -> Result<()> {
    let transport = transport(uri).await?;
    match &transport.remote {
        _ if transport.encrypted && !transport.verified => findings.warn(
            about,
            "TLS without checking certificates: anybody on the way may pretend to be the server",
            "remove tlsInsecure and tlsAllowInvalidCertificates from the URI, and name the authority with tlsCAFile",
        ),
        _ if transport.encrypted => findings.ok(about, "the connection is encrypted with TLS"),
        Some(host) => findings.warn(
            about,
            format!("no TLS: anybody on the way to {host} may read documents"),
            "add tls=true to the URI, and tlsCAFile=… where the authority is one of your own",
        ),
        None => {}
    }
    Ok(())
}
