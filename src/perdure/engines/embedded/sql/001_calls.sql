-- What follows is one transaction of the migration. Times are POSIX seconds.

CREATE TABLE calls (
    n INTEGER PRIMARY KEY,            -- clusters what belongs to the call; random ids would scatter it
    id TEXT NOT NULL UNIQUE,
    tool TEXT NOT NULL,
    function TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    epoch INTEGER NOT NULL,           -- of the last claim; begins at a random number, for n may be used again
    owner INTEGER,                    -- the process that runs it
    wake_at REAL,                     -- of an unowned call: due then; NULL: only the inbox wakes it; < 0: due at once
    seq INTEGER NOT NULL DEFAULT 0,   -- how many events it has
    version INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    run INTEGER NOT NULL DEFAULT 0,   -- how often it went on with a new journal
    begun INTEGER NOT NULL DEFAULT 0, -- lives that may have begun it: all but those that gave it back
    diverged INTEGER NOT NULL DEFAULT 0, -- stuck, and each newly started process tries once more
    waiting INTEGER NOT NULL DEFAULT 0,  -- how many requests wait for it
    handed INTEGER NOT NULL DEFAULT 0,   -- the last reply was given; if not, and nobody waits: an orphan
    unwanted INTEGER NOT NULL DEFAULT 0, -- its own caller cancelled it, and is not told so again
    identical INTEGER NOT NULL DEFAULT 0, -- requests like its own attach to it while it runs
    shared INTEGER NOT NULL DEFAULT 0,
    caller TEXT,
    digest TEXT NOT NULL,
    key TEXT,
    holds TEXT,                       -- tool, key and caller of the key that it holds; NULL once it is free
    reuse REAL,                       -- seconds after its end that the key is held; NULL: as long as it is kept
    retain REAL NOT NULL,
    deadline REAL,
    created REAL NOT NULL,
    updated REAL,                     -- when it changed last before its end
    delay REAL NOT NULL DEFAULT 0,    -- seconds from its creation to its start
    started REAL,                     -- with the journal that it has now, where that is not its first
    ended REAL,
    expires REAL,
    parent TEXT,
    retry_of TEXT,
    seed TEXT NOT NULL,
    python TEXT NOT NULL,
    on_disconnect TEXT NOT NULL,
    principal TEXT,
    signals TEXT,
    progress TEXT,
    text TEXT NOT NULL DEFAULT '',
    data BLOB,
    reason TEXT,                      -- why it was cancelled
    failure BLOB,
    arguments BLOB,                   -- NULL: large, see large_arguments
    outcome BLOB
);

CREATE UNIQUE INDEX calls_holds ON calls (holds) WHERE holds IS NOT NULL;
-- What is due (no owner), and what a process owns.
CREATE INDEX calls_work ON calls (owner, function, wake_at) WHERE ended IS NULL;
CREATE INDEX calls_orphaned ON calls (caller, function, digest) WHERE waiting = 0 AND handed = 0;
CREATE INDEX calls_identical ON calls (caller, function, digest) WHERE identical;
CREATE INDEX calls_retried ON calls (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX calls_expiry ON calls (expires) WHERE expires IS NOT NULL;
CREATE INDEX calls_diverged ON calls (function) WHERE diverged;

-- An update writes the whole row, so what is large and never changes has a row of its own.
CREATE TABLE large_arguments (
    call INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);

-- Neither the first event nor the last: they are the call's row.
CREATE TABLE events (
    call INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (call, seq)
) WITHOUT ROWID;

-- AUTOINCREMENT: a worker remembers the rows that it has seen.
CREATE TABLE inbox (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    call INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX inbox_call ON inbox (call);

CREATE TABLE attempts (
    call INTEGER NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    count INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    first_began REAL NOT NULL,
    last_began REAL NOT NULL,
    first_error TEXT,
    last_error TEXT,
    next_at REAL,
    PRIMARY KEY (call, key)
) WITHOUT ROWID;

-- Requests that wait for a call, and the process that has their connections.
CREATE TABLE waits (
    request TEXT PRIMARY KEY,
    call INTEGER NOT NULL,
    process INTEGER NOT NULL,
    asks TEXT NOT NULL                -- the kinds of question that its client can be asked
) WITHOUT ROWID;
CREATE INDEX waits_call ON waits (call) WHERE asks <> '';

-- Requests that let go without their answer, which may still reach their clients over another connection.
CREATE TABLE resumable (
    request TEXT PRIMARY KEY,
    call INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX resumable_call ON resumable (call);

-- Who asked for a shared call; '' is somebody without an identity.
CREATE TABLE holders (
    call INTEGER NOT NULL,
    caller TEXT NOT NULL,
    PRIMARY KEY (call, caller)
) WITHOUT ROWID;

CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    call INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_call ON idempotency (call);

-- Signals of which one counts, and which have come.
CREATE TABLE once (
    call INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (call, name)
) WITHOUT ROWID;

-- What calls asked a person or a model. Kept as long as the call, because no name is used twice.
CREATE TABLE questions (
    row INTEGER PRIMARY KEY,
    call INTEGER NOT NULL,
    key TEXT NOT NULL,                -- where in its body
    asked TEXT NOT NULL,              -- its name in the journal, wherever it is shown by now
    shown INTEGER NOT NULL,           -- the call on which it is seen: itself, or its nearest ancestor with a client
    wish TEXT NOT NULL,               -- the name as the body has it
    name TEXT NOT NULL,
    number INTEGER NOT NULL,          -- how often the wish was made
    state TEXT NOT NULL,              -- open, answered, withdrawn
    body TEXT,                        -- NULL once it is not open
    UNIQUE (shown, name)
);
CREATE INDEX questions_call ON questions (call);
CREATE INDEX questions_wish ON questions (shown, wish, number);
CREATE INDEX questions_open ON questions (shown) WHERE state = 'open';

-- Bodies that wait for the end of a call; gone when they have been told.
CREATE TABLE links (
    child INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    key TEXT NOT NULL,
    own INTEGER NOT NULL,             -- awaited as its child, and not merely its end
    PRIMARY KEY (child, parent, key)
) WITHOUT ROWID;
CREATE INDEX links_parent ON links (parent, key);

CREATE TABLE stores (
    store TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (store, scope, key)
) WITHOUT ROWID;

CREATE TABLE processes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    pid INTEGER NOT NULL,
    port INTEGER NOT NULL
);

-- The functions that a process runs.
CREATE TABLE offers (
    function TEXT NOT NULL,
    process INTEGER NOT NULL,
    PRIMARY KEY (function, process)
) WITHOUT ROWID;

-- Diverged calls that a newly started process is still to try once.
CREATE TABLE tries (
    process INTEGER NOT NULL,
    call INTEGER NOT NULL,
    PRIMARY KEY (process, call)
) WITHOUT ROWID;
