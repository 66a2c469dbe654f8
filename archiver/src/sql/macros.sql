
-- The whole number that a text is, whatever it is written as: 5, 5.0, 5e2. Null for any other text.
CREATE OR REPLACE MACRO whole_number(in_text) AS CASE
  WHEN regexp_full_match(in_text, '-?[0-9]+') THEN TRY_CAST(in_text AS BIGINT)
  WHEN regexp_full_match(in_text, '-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?')
    AND TRY_CAST(in_text AS DOUBLE) = trunc(TRY_CAST(in_text AS DOUBLE)) THEN TRY_CAST(TRY_CAST(in_text AS DOUBLE) AS BIGINT)
  END;

-- The _id in a doc_key, equal for those that MongoDB takes for one: a whole number, whether as Int32, Int64 or double.
CREATE OR REPLACE MACRO id_of(in_key) AS coalesce(
  CAST(whole_number(coalesce(in_key->>'$._id."$numberInt"', in_key->>'$._id."$numberLong"', in_key->>'$._id."$numberDouble"')) AS VARCHAR),
  CAST(in_key->'$._id' AS VARCHAR));

-- Where a record stands among those of its time: one that was released late, where it was withheld.
CREATE OR REPLACE MACRO place_of(in_seq, in_detail) AS
  coalesce(CAST(coalesce(in_detail->>'$.late."$numberLong"', in_detail->>'$.late') AS BIGINT), in_seq);

-- Every record of the documents with this _id. Those of a number are looked for in every form that doc_id can have of it. Any other _id is
-- compared with doc_id alone, so that DuckDB leaves out what the Bloom filters say it is not in.
CREATE OR REPLACE MACRO records_of(in_source, in_id) AS TABLE
  SELECT * FROM all_changes
  WHERE source = in_source
    AND (whole_number(in_id) IS NOT NULL OR doc_id = in_id)
    AND (whole_number(in_id) IS NULL OR (
      doc_id IN (in_id, CAST(whole_number(in_id) AS VARCHAR), replace(CAST(CAST(whole_number(in_id) AS DOUBLE) AS VARCHAR), 'e+', 'e'),
        CASE whole_number(in_id) WHEN 0 THEN '-0.0' ELSE in_id END)
      AND (doc_id = in_id OR id_of(doc_key) = CAST(whole_number(in_id) AS VARCHAR))));

-- Every record of one document, oldest first: of changes that have one time, in their order, and behind them the document as a baseline
-- read it at that time. Numbers that are one _id to MongoDB (1, 1.0) are one document; '5' is the text "5" too: doc_key says which.
--   FROM changes_of('payments', '652f1c0d9c6e8a1b2c3d4e5f');
CREATE OR REPLACE MACRO changes_of(in_source, in_id) AS TABLE
  FROM records_of(in_source, in_id)
  ORDER BY cluster_time, cluster_inc, op = 'snapshot', partition, place_of(seq, detail), seq;

-- Stretches of which history is missing, one row each. What happened after "after" and no later than "until" is not recorded; closed says
-- when the present had been compared with what was known (documents that differed have records of their own), undecided of
-- which collections that could not be told. db and coll are null where everything that the source watched is concerned;
-- doc_id is there where one change of one document was too large.
--   FROM gaps('payments');
CREATE OR REPLACE MACRO gaps(in_source) AS TABLE
  WITH records AS (
    SELECT partition, seq, cluster_time, db, coll, doc_id, detail,
      to_timestamp(CAST(detail->>'$.after."$timestamp".t' AS BIGINT)) AS "after",
      to_timestamp(CAST(detail->>'$.until."$timestamp".t' AS BIGINT)) AS until,
      CAST(coalesce(detail->>'$.closes."$numberLong"', detail->>'$.closes') AS BIGINT) AS closes
    FROM all_changes WHERE source = in_source AND op = 'gap'
  )
  SELECT opened.partition, opened.seq, opened.db, opened.coll, opened.doc_id,
    coalesce(opened.after, opened.cluster_time) AS "after", coalesce(opened.until, opened.cluster_time) AS until,
    opened.detail->>'$.reason' AS reason, closing.cluster_time AS closed, closing.detail->'$.undecided' AS undecided
  FROM records AS opened
  LEFT JOIN records AS closing ON closing.closes = opened.seq AND closing.partition IS NOT DISTINCT FROM opened.partition
  WHERE opened.closes IS NULL
  ORDER BY "after", opened.partition, opened.seq;

-- A document as it was at a time (after all changes of the seconds before it, as `archiver recover --at`), one row for each
-- collection that had this _id (and for each of a number and a text that are written alike: doc_key says which), from stored images only: the image after the last change up to then, else the image before
-- the next one. state:
--   present   document is what it was
--   deleted   by a change of its own
--   ended     its collection or database was dropped, or its collection was renamed; why says which
--   not yet   it was inserted later
--   unknown   an image is missing, another collection took the name, or the time is in or behind a gap
-- Events that are withheld name no document: see withheld. `archiver recover` knows more, and reconstructs also without images.
--   FROM doc_at('payments', '652f1c0d9c6e8a1b2c3d4e5f', '2026-11-21 09:30:00');
CREATE OR REPLACE MACRO doc_at(in_source, in_id, in_time) AS TABLE
  WITH own AS (
    SELECT *, id_of(doc_key) AS id FROM records_of(in_source, in_id)
    WHERE op IN ('insert', 'update', 'replace', 'delete', 'snapshot', 'gap')
  ), places AS (
    SELECT DISTINCT db, coll, id FROM own
  ), wide AS (
    -- What concerns every document of a collection. Of those in one that a rename replaces, nothing is known from there on.
    SELECT places.db, places.coll, places.id, CASE WHEN w.op = 'rename' AND w.coll <> places.coll THEN 'replaced' ELSE w.op END AS op, w.cluster_time, w.cluster_inc, w.partition, w.seq
    FROM all_changes AS w JOIN places ON places.db = w.db
    WHERE w.source = in_source AND (
      w.op = 'dropDatabase' OR (w.op IN ('drop', 'rename') AND w.coll = places.coll)
      OR (w.op = 'rename' AND (w.detail->>'$.to.db') = places.db AND (w.detail->>'$.to.coll') = places.coll))
  ), events AS (
    SELECT db, coll, id, doc_key, op, before, after, cluster_time, cluster_inc, partition, seq, place_of(seq, detail) AS placed FROM own
    UNION ALL BY NAME SELECT * FROM wide
  ), ordered AS (
    SELECT *, cluster_time < date_trunc('second', CAST(in_time AS TIMESTAMPTZ)) AS happened,
      row_number() OVER (ORDER BY cluster_time, cluster_inc, op = 'snapshot', partition, coalesce(placed, seq), seq) AS place
    FROM events
  ), around AS (
    SELECT db, coll, id, arg_max(doc_key, place) AS doc_key,
      arg_max(struct_pack(op := op, image := after, at := cluster_time, seq := seq), place)
        FILTER (WHERE happened) AS last_change,
      arg_min(struct_pack(op := op, image := before), place) FILTER (WHERE NOT happened) AS next_change
    FROM ordered GROUP BY db, coll, id
  ), judged AS (
    SELECT *,
      EXISTS (
        FROM gaps(in_source) AS g
        WHERE g.doc_id IS NULL AND (g.db IS NULL OR (g.db = around.db AND g.coll IS NOT DISTINCT FROM around.coll))
          AND g.after < date_trunc('second', CAST(in_time AS TIMESTAMPTZ))
          AND (g.until >= date_trunc('second', CAST(in_time AS TIMESTAMPTZ)) OR (
            (g.closed IS NULL OR json_array_length(g.undecided) > 0)
            AND next_change.image IS NULL AND (last_change IS NULL OR last_change.at <= g.until)))
      ) AS in_gap,
      CASE
        WHEN last_change IS NULL AND next_change.op = 'insert' THEN 'not yet'
        WHEN last_change.op = 'delete' THEN 'deleted'
        WHEN last_change.op IN ('drop', 'dropDatabase', 'rename') THEN 'ended'
        WHEN coalesce(last_change.image, next_change.image) IS NOT NULL THEN 'present'
        ELSE 'unknown'
      END AS judgement
    FROM around
  )
  SELECT db, coll, CASE WHEN in_gap THEN 'unknown' ELSE judgement END AS state,
    CASE WHEN judgement = 'present' AND NOT in_gap THEN coalesce(last_change.image, next_change.image) END AS document,
    CASE WHEN in_gap THEN 'gap' ELSE last_change.op END AS why, last_change.at AS last_change, last_change.seq AS last_seq, doc_key
  FROM judged ORDER BY db, coll, id;

-- What was deleted from in_from up to, but not including, in_to, with the image before where there is one. Documents that ended with
-- their collection have no deletes of their own: see collection_changes.
--   FROM deleted_between('payments', '2026-11-01', '2026-12-01');
CREATE OR REPLACE MACRO deleted_between(in_source, in_from, in_to) AS TABLE
  SELECT cluster_time, db, coll, doc_id, actor, before AS document, seq
  FROM all_changes
  WHERE source = in_source AND op = 'delete'
    AND cluster_time >= CAST(in_from AS TIMESTAMPTZ) AND cluster_time < CAST(in_to AS TIMESTAMPTZ)
    AND date >= CAST(timezone('UTC', CAST(in_from AS TIMESTAMPTZ)) AS DATE)
    AND date <= CAST(timezone('UTC', CAST(in_to AS TIMESTAMPTZ)) AS DATE)
  ORDER BY cluster_time, cluster_inc, partition, seq;

-- Events that a plugin failed on and that are still withheld: one row each, without their contents.
--   FROM withheld('payments');
CREATE OR REPLACE MACRO withheld(in_source) AS TABLE
  WITH quarantine AS (
    SELECT * FROM all_changes WHERE source = in_source AND op = 'quarantine'
  ), done AS (
    SELECT partition, unnest(CAST(detail->'$.released' AS JSON[])) AS one
    FROM quarantine WHERE (detail->'$.released') IS NOT NULL
  ), released AS (
    SELECT partition, CAST(coalesce(one->>'$.seq."$numberLong"', one->>'$.seq') AS BIGINT) AS seq FROM done
  )
  SELECT cluster_time, partition, seq, detail->>'$.op' AS op, db, coll, detail->>'$.plugin' AS plugin, detail->>'$.error' AS error
  FROM quarantine AS q
  WHERE (detail->'$.released') IS NULL AND NOT EXISTS (
    FROM released AS r WHERE r.seq = q.seq AND r.partition IS NOT DISTINCT FROM q.partition)
  ORDER BY cluster_time, cluster_inc, partition, seq;

-- Every change of one field: who, when, from what, to what. The path is dotted, array elements by number: 'items.0.sku'.
-- exact is false where images are missing, or an event is withheld or was too large: the field may have changed then, and the values
-- are not known.
--   FROM field_changes('payments', 'status') WHERE doc_id = '652f1c0d9c6e8a1b2c3d4e5f';
CREATE OR REPLACE MACRO field_changes(in_source, in_path) AS TABLE
  WITH pointed AS (
    SELECT '/' || replace(replace(replace(in_path, '~', '~0'), '/', '~1'), '.', '/') AS pointer
  ), compared AS (
    SELECT cluster_time, cluster_inc, partition, seq, op, db, coll, doc_id, actor, changed,
      json_extract(before, pointer) AS old_value, json_extract(after, pointer) AS new_value,
      CASE op
        WHEN 'insert' THEN after IS NOT NULL
        WHEN 'delete' THEN before IS NOT NULL
        ELSE before IS NOT NULL AND after IS NOT NULL
      END AS exact
    FROM all_changes, pointed
    WHERE source = in_source AND (
      op IN ('insert', 'update', 'replace', 'delete') OR (op = 'gap' AND doc_id IS NOT NULL)
      OR (op = 'quarantine' AND EXISTS (
        FROM withheld(in_source) AS w WHERE w.seq = all_changes.seq AND w.partition IS NOT DISTINCT FROM all_changes.partition)))
  )
  SELECT cluster_time, seq, op, db, coll, doc_id, actor,
    CASE WHEN exact THEN old_value END AS old_value, CASE WHEN exact THEN new_value END AS new_value, exact
  FROM compared
  WHERE CASE
    WHEN exact THEN old_value IS DISTINCT FROM new_value
    WHEN op = 'update' THEN coalesce(list_contains(changed, split_part(in_path, '.', 1)), true)
    ELSE true
  END
  ORDER BY cluster_time, cluster_inc, partition, seq;

-- Who changed a document, how often, and when first and last. actor is null where nobody is known; actor_from says what it
-- rests on (docs/operating.md, "Who did it").
--   FROM actors_of('payments', '652f1c0d9c6e8a1b2c3d4e5f');
CREATE OR REPLACE MACRO actors_of(in_source, in_id) AS TABLE
  SELECT actor, actor_from, count(*) AS changes, list_sort(list(DISTINCT op)) AS ops,
    min(cluster_time) AS first_change, max(cluster_time) AS last_change
  FROM records_of(in_source, in_id)
  WHERE op IN ('insert', 'update', 'replace', 'delete')
  GROUP BY actor, actor_from ORDER BY first_change, actor;

-- Everything that somebody did, oldest first, with the reason where the application gave one.
--   FROM changes_by('payments', 'ann');
CREATE OR REPLACE MACRO changes_by(in_source, in_actor) AS TABLE
  SELECT cluster_time, seq, op, db, coll, doc_id, changed, actor_from, extra->>'$.reason' AS reason
  FROM all_changes
  WHERE source = in_source AND actor = in_actor
  ORDER BY cluster_time, cluster_inc, partition, seq;

-- What happened to collections and databases rather than to documents: drop, rename, createIndexes, …
--   FROM collection_changes('payments');
CREATE OR REPLACE MACRO collection_changes(in_source) AS TABLE
  SELECT cluster_time, seq, op, db, coll, detail
  FROM all_changes
  WHERE source = in_source
    AND op NOT IN ('insert', 'update', 'replace', 'delete', 'snapshot', 'policy', 'gap', 'quarantine', 'recovery')
  ORDER BY cluster_time, cluster_inc, partition, seq;

-- Which plugins with which configuration stood before the log, what was watched, and since which record. A record's column policy
-- is the seq of one of these, in its own partition.
--   FROM policies('payments');
CREATE OR REPLACE MACRO policies(in_source) AS TABLE
  SELECT partition, seq AS policy, cluster_time AS since,
    list_transform(CAST(detail->'$.plugins' AS JSON[]), lambda p: (p->>'$.name') || ' ' || (p->>'$.version')) AS plugins,
    CAST(detail->'$.watch' AS VARCHAR[]) AS watch, detail
  FROM all_changes
  WHERE source = in_source AND op = 'policy'
  ORDER BY cluster_time, cluster_inc, partition, seq;
