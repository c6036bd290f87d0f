//! What `deis help <command>` shows as examples: command lines, and what they do. Each is parsed by a
//! test, so that none goes stale.

/// By command, its full name.
pub const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "auth:register",
        &[
            (
                "deis register http://deis.example.com",
                "asks for a name, a password and a mail address",
            ),
            (
                "deis register https://deis.example.com --ssl-verify=false",
                "where the controller's certificate is its own",
            ),
        ],
    ),
    (
        "auth:login",
        &[
            (
                "deis login http://deis.example.com",
                "asks for name and password",
            ),
            (
                "deis login http://deis.example.com --username=ada --password=secret",
                "asks nothing; mind your shell's history",
            ),
        ],
    ),
    (
        "auth:logout",
        &[(
            "deis logout",
            "forgets the login on this computer; it stays valid elsewhere",
        )],
    ),
    (
        "auth:whoami",
        &[("deis whoami", "says who you are, and at which controller")],
    ),
    (
        "auth:passwd",
        &[
            (
                "deis passwd",
                "asks for the old password and for the new one",
            ),
            (
                "deis passwd --username=bob",
                "gives bob a new password, if you are an administrator",
            ),
        ],
    ),
    (
        "auth:cancel",
        &[(
            "deis auth:cancel",
            "deletes your account, once you own no apps any more",
        )],
    ),
    (
        "auth:regenerate",
        &[
            (
                "deis auth:regenerate",
                "ends your logins on all computers but this one",
            ),
            (
                "deis auth:regenerate --all",
                "ends everybody's, if you are an administrator",
            ),
        ],
    ),
    (
        "apps:create",
        &[
            (
                "deis create",
                "creates an app with a name made up, and the git remote `deis`",
            ),
            (
                "deis create blog --remote=staging",
                "creates blog, and the git remote `staging`",
            ),
            (
                "deis create blog --no-remote",
                "leaves the repository as it is",
            ),
        ],
    ),
    (
        "apps:list",
        &[(
            "deis apps",
            "lists your apps and those that are shared with you",
        )],
    ),
    (
        "apps:info",
        &[(
            "deis info -a blog",
            "shows blog with its processes and domains",
        )],
    ),
    ("apps:open", &[("deis open", "opens this directory's app")]),
    (
        "apps:destroy",
        &[
            ("deis destroy -a blog", "asks for the app's name once more"),
            ("deis destroy -a blog --confirm=blog", "asks nothing"),
        ],
    ),
    (
        "apps:transfer",
        &[(
            "deis apps:transfer bob -a blog",
            "makes bob the owner of blog",
        )],
    ),
    (
        "apps:logs",
        &[(
            "deis logs -n 100",
            "shows the last 100 lines of all processes",
        )],
    ),
    (
        "apps:run",
        &[
            (
                "deis run rake db:migrate",
                "runs it once, and exits as it exits",
            ),
            (
                "deis run -a blog -- ls -a",
                "keeps the command's options from being taken for ours",
            ),
            (
                "deis run 'echo $PORT'",
                "lets the app's shell read the command, not yours",
            ),
        ],
    ),
    (
        "git:remote",
        &[(
            "deis git:remote -a blog",
            "makes `git push deis main` deploy blog from here",
        )],
    ),
    (
        "config:list",
        &[
            ("deis config", "lists the variables"),
            (
                "deis config --oneline -a blog",
                "prints them as config:set takes them",
            ),
        ],
    ),
    (
        "config:set",
        &[
            (
                "deis config:set POWERED_BY=Deis MODE=test",
                "sets two variables by one release",
            ),
            (
                "deis config:set SSH_KEY=/home/ada/.ssh/deploy",
                "reads the key from its file",
            ),
        ],
    ),
    ("config:unset", &[("deis config:unset MODE", "removes it")]),
    (
        "config:pull",
        &[
            ("deis config:pull", "adds to .env what it doesn't have"),
            (
                "deis config:pull --interactive",
                "asks before it changes a variable there",
            ),
        ],
    ),
    (
        "config:push",
        &[(
            "deis config:push --path=production.env",
            "sets all that the file has",
        )],
    ),
    (
        "ps:list",
        &[(
            "deis ps",
            "lists the app's processes with their states and releases",
        )],
    ),
    (
        "ps:scale",
        &[(
            "deis scale web=3 worker=1",
            "runs three processes of type web and one worker",
        )],
    ),
    (
        "ps:single",
        &[
            ("deis ps:single", "lists the types that are single"),
            (
                "deis ps:single clock on",
                "has the old clock stop before the next one starts, always",
            ),
        ],
    ),
    (
        "ps:restart",
        &[
            (
                "deis restart",
                "restarts all processes, one after the other",
            ),
            ("deis ps:restart web.1", "restarts one"),
        ],
    ),
    (
        "rollout:info",
        &[("deis rollout", "tells how new releases are watched")],
    ),
    (
        "rollout:set",
        &[
            (
                "deis rollout:set --share 25 --watch 60",
                "replaces a quarter of the processes first and watches for a minute",
            ),
            (
                "deis rollout:set --errors 1 --failed 0",
                "has more than one error in a hundred answers end a deploy",
            ),
        ],
    ),
    (
        "rollout:unset",
        &[(
            "deis rollout:unset",
            "has new releases replace old ones at once",
        )],
    ),
    (
        "maintenance:info",
        &[("deis maintenance", "tells whether it is on")],
    ),
    (
        "maintenance:on",
        &[
            ("deis maintenance:on", "shows visitors the platform's page"),
            (
                "deis maintenance:on --page back-soon.html",
                "shows them a page of your own",
            ),
        ],
    ),
    (
        "maintenance:off",
        &[("deis maintenance:off", "lets visitors in again")],
    ),
    (
        "releases:list",
        &[("deis releases -l 5", "lists the last five")],
    ),
    (
        "releases:info",
        &[("deis releases:info v3", "shows what release 3 was made of")],
    ),
    (
        "releases:rollback",
        &[
            ("deis rollback", "goes back to the release before this one"),
            (
                "deis rollback v3",
                "makes a new release of the code and config of v3",
            ),
        ],
    ),
    ("builds:list", &[("deis builds", "lists what was pushed")]),
    (
        "builds:create",
        &[
            ("deis pull registry.example.com/blog:v2", "deploys an image"),
            (
                "deis pull blog:v2 --procfile='worker: bin/work'",
                "says which process types it has",
            ),
        ],
    ),
    ("keys:list", &[("deis keys", "lists your keys")]),
    (
        "keys:add",
        &[
            ("deis keys:add", "asks which of the keys in ~/.ssh"),
            ("deis keys:add ~/.ssh/id_ed25519.pub", "adds that one"),
        ],
    ),
    (
        "keys:remove",
        &[(
            "deis keys:remove ada@laptop",
            "nobody pushes with that key any more",
        )],
    ),
    (
        "audit:list",
        &[
            (
                "deis audit",
                "shows who has changed what of the app, the newest first",
            ),
            (
                "deis audit -n 5 --app=blog",
                "shows the last five changes of blog",
            ),
            (
                "deis audit --platform",
                "shows changes of accounts and destroyed apps, to administrators",
            ),
        ],
    ),
    (
        "tokens:list",
        &[(
            "deis tokens",
            "lists your tokens, and from where you are logged in",
        )],
    ),
    (
        "tokens:create",
        &[
            (
                "deis tokens:create ci --scope=deploy --app=blog --expires=90d",
                "makes a token that deploys blog and nothing else, for 90 days",
            ),
            (
                "deis tokens:create board --scope=read",
                "makes a token that looks at all your apps",
            ),
        ],
    ),
    (
        "tokens:revoke",
        &[("deis tokens:revoke ci", "ends the token at once")],
    ),
    (
        "domains:list",
        &[("deis domains", "lists the app's domains")],
    ),
    (
        "domains:add",
        &[(
            "deis domains:add www.example.org",
            "needs a DNS record that leads to the platform, too",
        )],
    ),
    (
        "domains:remove",
        &[(
            "deis domains:remove www.example.org",
            "the app answers there no more",
        )],
    ),
    (
        "certs:list",
        &[(
            "deis certs",
            "lists your certificates, and when they expire",
        )],
    ),
    (
        "certs:add",
        &[
            (
                "deis certs:add www.crt www.key",
                "serves all names that the certificate has",
            ),
            (
                "deis certs:add www.crt www.key --common-name=www.example.org",
                "serves that one alone",
            ),
        ],
    ),
    (
        "certs:auto",
        &[(
            "deis certs:auto -a blog",
            "says which of blog's domains have certificates, until when, and why not",
        )],
    ),
    (
        "certs:info",
        &[(
            "deis certs:info www.example.org",
            "shows its chain, its names and its fingerprints",
        )],
    ),
    (
        "certs:remove",
        &[(
            "deis certs:remove www.example.org",
            "serves the platform's own certificate there again",
        )],
    ),
    (
        "perms:list",
        &[
            (
                "deis perms -a blog",
                "lists who works on blog besides its owner",
            ),
            ("deis perms:list --admin", "lists the administrators"),
        ],
    ),
    (
        "perms:create",
        &[
            (
                "deis perms:create bob -a blog",
                "lets bob push to blog and configure it",
            ),
            (
                "deis perms:create bob --admin",
                "makes bob an administrator",
            ),
        ],
    ),
    (
        "perms:delete",
        &[("deis perms:delete bob -a blog", "takes that back")],
    ),
    (
        "users:list",
        &[(
            "deis users",
            "lists who is registered, if you are an administrator",
        )],
    ),
    ("limits:list", &[("deis limits", "lists the app's limits")]),
    (
        "limits:set",
        &[
            (
                "deis limits:set web=512M worker=1G",
                "limits memory, in B, K, M or G",
            ),
            (
                "deis limits:set --cpu web=512",
                "limits the share of the CPU, of 1024",
            ),
        ],
    ),
    (
        "limits:unset",
        &[("deis limits:unset web", "lets web use what memory there is")],
    ),
    ("tags:list", &[("deis tags", "lists the app's tags")]),
    (
        "tags:set",
        &[(
            "deis tags:set disk=ssd",
            "runs the app only on hosts with this tag",
        )],
    ),
    (
        "tags:unset",
        &[("deis tags:unset disk", "lets it run on the others, too")],
    ),
    (
        "help",
        &[
            ("deis help config", "lists the commands about config"),
            ("deis help config:set", "explains one of them"),
        ],
    ),
    (
        "completion",
        &[
            (
                "deis completion bash > ~/.local/share/bash-completion/completions/deis",
                "for bash",
            ),
            (
                "deis completion zsh > ~/.zfunc/_deis",
                "for zsh, with ~/.zfunc in $fpath",
            ),
            (
                "deis completion fish > ~/.config/fish/completions/deis.fish",
                "for fish",
            ),
        ],
    ),
    (
        "man",
        &[(
            "deis man --dir /usr/local/share/man/man1",
            "writes a page for each command",
        )],
    ),
    (
        "version",
        &[("deis version", "is the same as deis --version")],
    ),
];
