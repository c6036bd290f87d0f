//! One certificate: account, order, proof, key, certificate, record.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{http::Https, settings::Settings};
use crate::{
    cert::{self, CertError},
    model::{
        AcmeAccount, AcmeChallenge, Certificate, ChallengeToken, Domain, DomainName, Revision,
        SCHEMA,
    },
    seal::{ClusterKey, SealError, cert_context},
    store::{CommitError, Store, StoreError, Txn, Versioned, keys},
};

/// Where the account's credentials open.
const ACCOUNT_CONTEXT: &str = "acme-account";
/// All routers have so long to give the answer.
const ROUTERS_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at a router.
const ROUTERS_PAUSE: Duration = Duration::from_millis(100);
/// One look at one router.
const ROUTER_LIMIT: Duration = Duration::from_secs(2);
/// The authority has so long to look, and as long again to sign.
const AUTHORITY_WAIT: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The authority can't be reached, or says no.
    #[error("the authority refuses {0}")]
    Authority(&'static str, #[source] instant_acme::Error),
    /// It offers no proof that we can give.
    #[error("the authority offers no proof by HTTP for this domain")]
    NoHttp,
    /// It asks for what is no token.
    #[error("the authority's token is none of RFC 8555")]
    Token,
    /// It looked and did not find the answer.
    #[error(
        "the authority could not verify the domain ({0}); does its DNS lead to the platform's routers, \
         port 80?"
    )]
    Unproven(String),
    /// What it issued can't be served.
    #[error("the certificate that was issued can't be used")]
    Unusable(#[source] CertError),
    /// The account's record doesn't open.
    #[error(
        "the account in /deis/acme/account can't be read; delete the key, and a new one is made"
    )]
    Account(#[source] AccountError),
    /// Too slow.
    #[error("it was not done within {0:?}")]
    Slow(Duration),
    /// The store failed.
    #[error("etcd can't be used")]
    Store(#[from] StoreError),
    /// A fault of ours.
    #[error("the order broke down, which the controller's journal tells more of")]
    Broken(#[source] tokio::task::JoinError),
    /// The domain or its certificate was changed meanwhile.
    #[error("the domain was changed meanwhile")]
    Changed,
}

/// Why the account can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    /// Not sealed with this cluster's key.
    #[error("it is not sealed with this cluster's key")]
    Sealed(#[from] SealError),
    /// Not what was written.
    #[error("it holds no credentials")]
    Broken(#[from] serde_json::Error),
}

/// A certificate that has been issued and written.
#[derive(Debug)]
pub(super) struct Issued {
    /// Until when it is valid.
    pub expires: Timestamp,
    /// As it is in etcd now.
    pub record: Versioned<Certificate>,
}

/// Orders certificates from one authority at a time.
pub(super) struct Clerk {
    store: Store,
    key: Arc<ClusterKey>,
    http: reqwest::Client,
    /// Of the settings that it was opened with.
    account: Mutex<Option<(Settings, Account)>>,
}

impl Clerk {
    pub fn new(store: Store, key: Arc<ClusterKey>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ROUTER_LIMIT)
            .build()
            .expect("invariant: a client without settings of its own can be built");
        Self {
            store,
            key,
            http,
            account: Mutex::new(None),
        }
    }

    /// Orders a certificate for a domain and writes it, if the domain is as it was and its
    /// certificate still the one of revision `old`.
    pub async fn order(
        &self,
        settings: &Settings,
        domain: &Versioned<Domain>,
        old: Option<Revision>,
    ) -> Result<Issued, OrderError> {
        let name = &domain.value.domain;
        let account = self.account(settings).await?;
        let ids = [Identifier::Dns(name.to_string())];
        let mut order = account
            .new_order(&NewOrder::new(&ids))
            .await
            .map_err(|error| OrderError::Authority("the order", error))?;
        self.prove(&mut order, name).await?;
        let patience = RetryPolicy::new().timeout(AUTHORITY_WAIT);
        let status = order.poll_ready(&patience).await;
        match status {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(OrderError::Unproven(reason(&mut order).await)),
            Err(error) => return Err(OrderError::Authority("the proof", error)),
        }
        let signed = |error| OrderError::Authority("to sign", error);
        let key = order.finalize().await.map_err(signed)?;
        let chain = order.poll_certificate(&patience).await.map_err(signed)?;
        self.write(domain, old, &chain, &key).await
    }

    /// Puts the answers where every router gives them, and asks the authority to look.
    async fn prove(&self, order: &mut Order, name: &DomainName) -> Result<(), OrderError> {
        let asked = |error| OrderError::Authority("the proof", error);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(asked)?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => return Err(OrderError::Unproven(format!("{other:?}").to_lowercase())),
            }
            let mut challenge = authorization
                .challenge(ChallengeType::Http01)
                .ok_or(OrderError::NoHttp)?;
            let token: ChallengeToken = challenge.token.parse().map_err(|_| OrderError::Token)?;
            let record = AcmeChallenge {
                schema: SCHEMA,
                domain: name.clone(),
                answer: challenge.key_authorization().as_str().to_owned(),
            };
            let put = Txn::new().put(&keys::acme_challenge(&token), &record);
            self.commit(put).await?;
            self.routers_answer(&token, &record).await?;
            challenge.set_ready().await.map_err(asked)?;
        }
        Ok(())
    }

    /// Waits until every router that is there gives the answer: which of them the authority asks is
    /// DNS's choice. One that does not is named and left behind.
    async fn routers_answer(
        &self,
        token: &ChallengeToken,
        record: &AcmeChallenge,
    ) -> Result<(), OrderError> {
        let routers = self.store.list_readable(&keys::routers()).await?;
        let end = Instant::now() + ROUTERS_WAIT;
        for (_, router) in routers.entries {
            let address = router.value.address;
            let url = format!("http://{address}/.well-known/acme-challenge/{token}");
            loop {
                let asked = self
                    .http
                    .get(&url)
                    .header(::http::header::HOST, record.domain.as_str());
                let said = match asked.send().await {
                    Ok(reply) => reply.text().await,
                    Err(error) => Err(error),
                };
                match said {
                    Ok(text) if text == record.answer => break,
                    said if Instant::now() > end => {
                        let error = said.err().map(|error| error.to_string());
                        warn!(
                            router = address,
                            domain = %record.domain,
                            error,
                            "a router does not answer the authority; it may ask another one"
                        );
                        break;
                    }
                    _ => sleep(ROUTERS_PAUSE).await,
                }
            }
        }
        Ok(())
    }

    /// Seals and writes what was issued.
    async fn write(
        &self,
        domain: &Versioned<Domain>,
        old: Option<Revision>,
        chain: &str,
        key: &str,
    ) -> Result<Issued, OrderError> {
        let now = Timestamp::now();
        let checked = cert::check(chain, key, now).map_err(OrderError::Unusable)?;
        let name = domain.value.domain.clone();
        let (name, names) = checked
            .facts
            .served_for(Some(name))
            .map_err(OrderError::Unusable)?;
        let record = Certificate {
            schema: SCHEMA,
            key: self
                .key
                .seal(&cert_context(&name), checked.key.expose().as_bytes()),
            names,
            owner: domain.value.owner.clone(),
            chain: checked.chain,
            expires: checked.facts.not_after,
            created: now,
            auto: true,
            name,
        };
        let place = keys::cert(&record.name);
        let txn = Txn::new().unchanged(&keys::domain(&record.name), domain.mod_revision);
        let txn = match old {
            Some(revision) => txn.unchanged(&place, revision),
            None => txn.absent(&place),
        };
        let txn = txn
            .put(&place, &record)
            .delete(&keys::acme_order(&record.name));
        let revision = self.commit(txn).await?;
        Ok(Issued {
            expires: record.expires,
            record: Versioned {
                value: record,
                mod_revision: revision,
                create_revision: revision,
            },
        })
    }

    /// Takes a domain's answers away.
    pub async fn forget(&self, domain: &DomainName) {
        let listed = self.store.list_readable(&keys::acme_challenges()).await;
        let entries = listed.map(|listing| listing.entries).unwrap_or_default();
        for (key, challenge) in entries {
            let token = keys::last_part(&key, keys::acme_challenges().as_str());
            let token = token.and_then(|token| token.parse::<ChallengeToken>().ok());
            if let Some(token) = token.filter(|_| challenge.value.domain == *domain) {
                let txn = Txn::new().delete(&keys::acme_challenge(&token));
                if let Err(error) = self.store.commit(txn).await {
                    debug!(%domain, %error, "an answer is left; the next term removes it");
                }
            }
        }
    }

    /// The platform's account with the authority of the settings, made if there is none.
    async fn account(&self, settings: &Settings) -> Result<Account, OrderError> {
        let mut open = self.account.lock().await;
        if let Some((of, account)) = open.as_ref()
            && of == settings
        {
            return Ok(account.clone());
        }
        let place = keys::acme_account();
        let there = self.store.get(&place).await?;
        let known = there
            .as_ref()
            .filter(|account| account.value.directory == settings.directory);
        let account = match known {
            Some(record) => self.open(settings, &record.value).await?,
            None => {
                let base = match &there {
                    Some(other) => Txn::new().unchanged(&place, other.mod_revision),
                    None => Txn::new().absent(&place),
                };
                self.register(settings, base).await?
            }
        };
        *open = Some((settings.clone(), account.clone()));
        Ok(account)
    }

    async fn open(&self, settings: &Settings, record: &AcmeAccount) -> Result<Account, OrderError> {
        let broken = |error: AccountError| OrderError::Account(error);
        let text = self.key.open(ACCOUNT_CONTEXT, &record.credentials);
        let text = text.map_err(|error| broken(error.into()))?;
        let credentials: AccountCredentials =
            serde_json::from_slice(text.expose()).map_err(|error| broken(error.into()))?;
        builder(settings)?
            .from_credentials(credentials)
            .await
            .map_err(|error| OrderError::Authority("our account", error))
    }

    async fn register(&self, settings: &Settings, base: Txn) -> Result<Account, OrderError> {
        let contact: Vec<&str> = settings.contact.as_deref().into_iter().collect();
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder(settings)?
            .create(&wanted, settings.directory.clone(), None)
            .await
            .map_err(|error| OrderError::Authority("an account", error))?;
        let text = serde_json::to_vec(&credentials)
            .map_err(|error| OrderError::Account(AccountError::Broken(error)))?;
        let record = AcmeAccount {
            schema: SCHEMA,
            directory: settings.directory.clone(),
            credentials: self.key.seal(ACCOUNT_CONTEXT, &text),
        };
        self.commit(base.put(&keys::acme_account(), &record))
            .await?;
        info!(
            directory = settings.directory,
            "made an account with the authority"
        );
        Ok(account)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, OrderError> {
        self.store.commit(txn).await.map_err(|error| match error {
            CommitError::Conflict => OrderError::Changed,
            CommitError::Store(error) => OrderError::Store(error),
        })
    }
}

/// A connection to the authority.
fn builder(settings: &Settings) -> Result<instant_acme::AccountBuilder, OrderError> {
    let https =
        Https::new(settings).map_err(|error| OrderError::Authority("a connection", error))?;
    Ok(Account::builder_with_http(Box::new(https)))
}

/// What the authority says of an order that it has refused.
async fn reason(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let mut problems = state.challenges.iter().filter_map(|c| c.error.as_ref());
            if let Some(problem) = problems.next() {
                return problem
                    .detail
                    .clone()
                    .unwrap_or_else(|| problem.to_string());
            }
        }
    }
    "it gives no reason".to_owned()
}
