// The roles and accounts Archiver needs, and nothing more. For mongosh, as a user administrator:
//
//   mongosh "mongodb://admin@host/admin" deploy/mongodb-roles.js
//
// Adapt the four constants first. Run it on the watched deployment, and, where [audit] uri names another one, there
// too, each time with the part that belongs there. Harmless when repeated.

// Databases that the sources watch.
const WATCHED = ["shop"];
// true where one source watches several databases or "*": its change stream is then opened on the whole deployment,
// and MongoDB allows that only to an account that may read all of it. Better: one source for each database.
const WHOLE_DEPLOYMENT = false;
// [audit] database.
const AUDIT = "audit";
// Which accounts to create here.
const PARTS = ["watch", "audit"];

const admin = db.getSiblingDB("admin");

function role(name, privileges) {
  const exists = admin.getRole(name) !== null;
  const definition = { privileges, roles: [] };
  exists ? admin.updateRole(name, definition) : admin.createRole({ role: name, ...definition });
}

function account(name, roles) {
  if (admin.getUser(name) === null) {
    print(`Password for the new account ${name}:`);
    admin.createUser({ user: name, pwd: passwordPrompt(), roles });
  } else {
    admin.grantRolesToUser(name, roles);
  }
}

// Reads documents, change streams with their images, and the collections' options. Never on the audit database: a loop
// is then impossible by privilege, not only by filter.
const readable = ["find", "changeStream", "listCollections"];
role("archiverWatch", WHOLE_DEPLOYMENT
  ? [
      { resource: { db: "", collection: "" }, actions: readable },
      { resource: { cluster: true }, actions: ["listDatabases"] },
    ]
  : WATCHED.map((name) => ({ resource: { db: name, collection: "" }, actions: readable })));

// What `status` and `check` show beyond that: oplog headroom, compatibility version, lifetime of images. The oplog holds
// every document in clear, so leave this role out where that matters more than knowing the headroom.
role("archiverMonitor", [
  { resource: { db: "local", collection: "oplog.rs" }, actions: ["find"] },
  { resource: { cluster: true }, actions: ["getParameter", "getClusterParameter", "replSetGetConfig"] },
]);

// Appends records and trims those that are sealed in the archive: records are never updated. `remove` is for the trimming after
// hot_retention; what proves that nothing else was removed is the archive, which this account can't touch.
role("archiverAudit", [
  { resource: { db: AUDIT, collection: "" }, actions: ["find", "insert", "remove", "createCollection", "createIndex", "listCollections", "listIndexes"] },
  ...["archiver.checkpoints", "archiver.leases", "archiver.marker", "archiver.snapshots"].map((collection) => ({
    resource: { db: AUDIT, collection },
    actions: ["find", "insert", "update"],
  })),
]);

if (PARTS.includes("watch") && PARTS.includes("audit")) {
  account("archiver", ["archiverWatch", "archiverMonitor", "archiverAudit"]);
} else if (PARTS.includes("watch")) {
  account("archiver", ["archiverWatch", "archiverMonitor"]);
} else {
  account("archiver", ["archiverAudit"]);
}

// Not created here, on purpose:
// - images: a person with collMod runs db.runCommand({collMod: "…", changeStreamPreAndPostImages: {enabled: true}});
// - `recover --apply`: a short-lived account with find and insert (with --overwrite also update) on the target.
