WITH "1 weather" AS NOT MATERIALIZED (
SELECT f."airport" AS "airport", make_timestamp(epoch_us(f."observed_at")) AS "observed_at", f."published_at" AS "published_at", CASE WHEN isfinite(f."temp") OR isinf(f."temp") THEN f."temp" + 0 END AS "temp", f."wind" AS "wind", CASE WHEN p."p0" IS NULL THEN NULL WHEN CAST(TRY_CAST(p."p0" AS BIGINT) AS DOUBLE) = TRY_CAST(p."p0" AS DOUBLE) THEN TRY_CAST(p."p0" AS BIGINT) ELSE error('lossy value: ' || 'column ''year'' of source ''weather''' || ': ' || CAST(p."p0" AS VARCHAR) || ' is not an exact int64') END AS "year", f.file_row_number AS "__file_row", 0 + p.number AS "__file_number"
FROM read_parquet(['/data/weather/year=2013/a.parquet'], union_by_name = true, hive_partitioning = false, filename = '__file') AS f
JOIN (VALUES ('/data/weather/year=2013/a.parquet', 0, CAST('2013' AS VARCHAR))) AS p("__file", number, "p0") ON p."__file" = f."__file"
UNION ALL
SELECT f."airport" AS "airport", make_timestamp(epoch_ns(f."observed_at") // 1000 - CAST(epoch_ns(f."observed_at") % 1000 < 0 AS BIGINT)) AS "observed_at", f."published_at" AS "published_at", CAST(CASE WHEN isfinite(f."temp") OR isinf(f."temp") THEN f."temp" + 0 END AS DOUBLE) AS "temp", CAST(NULL AS INTEGER) AS "wind", CASE WHEN p."p0" IS NULL THEN NULL WHEN CAST(TRY_CAST(p."p0" AS BIGINT) AS DOUBLE) = TRY_CAST(p."p0" AS DOUBLE) THEN TRY_CAST(p."p0" AS BIGINT) ELSE error('lossy value: ' || 'column ''year'' of source ''weather''' || ': ' || CAST(p."p0" AS VARCHAR) || ' is not an exact int64') END AS "year", f.file_row_number AS "__file_row", 1 + p.number AS "__file_number"
FROM read_parquet(['/data/weather/year=2014/it''s [[]b].parquet'], union_by_name = true, hive_partitioning = false, filename = '__file') AS f
JOIN (VALUES ('/data/weather/year=2014/it''s [b].parquet', 0, CAST('2014' AS VARCHAR))) AS p("__file", number, "p0") ON p."__file" = f."__file"
),
"2 derive" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."observed_at" AS "observed_at", r."published_at" AS "published_at", r."temp" AS "temp", r."wind" AS "wind", r."year" AS "year", "temp" AS "feature:temp", CASE WHEN isfinite(((CAST("wind" AS DOUBLE) * 0.868976e0) + 0e0)) THEN ((CAST("wind" AS DOUBLE) * 0.868976e0) + 0e0) END AS "feature:knots", r."__file_row", r."__file_number"
FROM "1 weather" AS r
),
"3 stamped" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."observed_at" AS "observed_at", r."published_at" AS "published_at", r."temp" AS "temp", r."wind" AS "wind", r."year" AS "year", r."feature:temp" AS "feature:temp", r."feature:knots" AS "feature:knots", epoch_us(r."observed_at") AS "__event_us", coalesce(epoch_us(r."published_at"), epoch_us(r."observed_at")) AS "__created_us", false AS "__deleted", r."__file_row", r."__file_number"
FROM "2 derive" AS r
WHERE r."airport" IS NOT NULL AND r."observed_at" IS NOT NULL
),
"4 bounded" AS NOT MATERIALIZED (
SELECT r."airport" AS "airport", r."observed_at" AS "observed_at", r."published_at" AS "published_at", r."temp" AS "temp", r."wind" AS "wind", r."year" AS "year", r."feature:temp" AS "feature:temp", r."feature:knots" AS "feature:knots", r."__event_us" AS "__event_us", r."__created_us" AS "__created_us", r."__deleted" AS "__deleted", r."__file_row", r."__file_number"
FROM "3 stamped" AS r
WHERE r."__event_us" <= (SELECT max(l."time") FROM "input entity_frame" AS l) AND r."__event_us" >= (SELECT min(l."time") FROM "input entity_frame" AS l) - 10800000000
),
"5 candidates" AS MATERIALIZED (
SELECT s."airport" AS k0, s."__event_us" AS e, greatest(s."__event_us", s."__created_us") AS a, (CAST(s."__file_number" AS BIGINT) * 1099511627776 + s."__file_row") AS place
FROM "4 bounded" AS s
SEMI JOIN "input entity_frame" AS l ON s."airport" = l."key:airport"
),
"6 in range" AS MATERIALIZED (
SELECT * EXCLUDE (first, last), CAST(last - CAST(e AS HUGEINT) * 9223372036854775808 AS BIGINT) AS place, last - CAST(e AS HUGEINT) * 9223372036854775808 <> CAST(e AS HUGEINT) * 9223372036854775808 - first AS tied
FROM (
SELECT l."__row" AS "__row", max(s.e) AS e, max(CAST(s.e AS HUGEINT) * 9223372036854775808 + s.place) AS last, max(CAST(s.e AS HUGEINT) * 9223372036854775808 - s.place) AS first
FROM "5 candidates" AS s
JOIN "input entity_frame" AS l ON s.k0 = l."key:airport" AND s.a <= l."time" AND s.e >= l."time" - 10800000000
GROUP BY l."__row")
),
"7 tied" AS MATERIALIZED (
SELECT w."__row", w.e, l."key:airport" AS k0, l."time" AS t
FROM "6 in range" AS w
JOIN "input entity_frame" AS l ON l."__row" = w."__row"
WHERE w.tied
),
"8 tied places" AS MATERIALIZED (
SELECT w."__row", s.place AS place
FROM "5 candidates" AS s
JOIN "7 tied" AS w ON s.k0 = w.k0 AND s.e = w.e AND s.a <= w.t
),
"9 fetched" AS MATERIALIZED (
SELECT w.e, w."__row", w.tied, s."feature:temp" AS v0, s."feature:knots" AS v1, s."__created_us" AS o0, s."published_at" AS o1, s."wind" AS o2, s."year" AS o3
FROM "4 bounded" AS s
JOIN (
SELECT w.e, w."__row", w.place, false AS tied
FROM "6 in range" AS w WHERE NOT tied
UNION ALL
SELECT NULL AS e, w."__row", w.place, true
FROM "8 tied places" AS w) AS w ON s."__file_row" = w.place % 1099511627776 AND s."__file_number" = w.place // 1099511627776
),
"10 settled" AS NOT MATERIALIZED (
SELECT "__row", e, v0, v1
FROM "9 fetched" WHERE NOT tied
UNION ALL
SELECT w."__row", w.e, x.v0, x.v1
FROM "6 in range" AS w
JOIN (
SELECT *
FROM "9 fetched" WHERE tied
QUALIFY row_number() OVER (PARTITION BY "__row" ORDER BY o0 DESC NULLS LAST, o1 DESC NULLS LAST, v0 DESC NULLS LAST, o2 DESC NULLS LAST, o3 DESC NULLS LAST) = 1) AS x ON x."__row" = w."__row"
WHERE w.tied
),
"11 answers" AS NOT MATERIALIZED (
SELECT v0 AS "out:temp", v1 AS "in:conditions:knots", 1 AS "status:conditions", "__row"
FROM "10 settled"
),
"12 joined" AS NOT MATERIALIZED (
SELECT l."key:airport" AS "key:airport", l."time" AS "time", l."request:distance" AS "request:distance", j0."out:temp" AS "out:temp", j0."in:conditions:knots" AS "in:conditions:knots", coalesce(j0."status:conditions", 3) AS "status:conditions", l."__row" AS "__row"
FROM "input entity_frame" AS l
LEFT JOIN "11 answers" AS j0 ON j0."__row" = l."__row"
),
"13 sorted" AS NOT MATERIALIZED (
SELECT "request:distance", "out:temp", "in:conditions:knots", "__row" AS "__row"
FROM "12 joined"
ORDER BY "__row"
),
"14 parts" AS NOT MATERIALIZED (
SELECT *, coalesce(CASE WHEN isfinite((("in:conditions:knots" / "request:distance") + 0e0)) THEN (("in:conditions:knots" / "request:distance") + 0e0) END, 0.0e0) AS "part 0", sqrt(CASE WHEN "out:temp" >= 0 THEN "out:temp" END) AS "part 1"
FROM "13 sorted" AS r
),
"15 parts" AS NOT MATERIALIZED (
SELECT *, ("part 0" / CASE WHEN isfinite(("part 1" + 0e0)) THEN ("part 1" + 0e0) END) AS "part 2"
FROM "14 parts" AS r
),
"16 derive" AS NOT MATERIALIZED (
SELECT r."request:distance" AS "request:distance", r."out:temp" AS "out:temp", r."in:conditions:knots" AS "in:conditions:knots", CASE WHEN isfinite((("out:temp" / "request:distance") + 0e0)) THEN (("out:temp" / "request:distance") + 0e0) END AS "step:0:by_distance", CASE WHEN isfinite(("part 2" + 0e0)) THEN ("part 2" + 0e0) END AS "step:0:drift", CASE WHEN isfinite((sqrt(abs("out:temp")) - "part 1")) THEN (sqrt(abs("out:temp")) - "part 1") END AS "step:0:swing", r."__row" AS "__row"
FROM "15 parts" AS r
),
"17 project" AS NOT MATERIALIZED (
SELECT r."step:0:by_distance" AS "by_distance", r."step:0:drift" AS "drift", r."step:0:swing" AS "swing", r."out:temp" AS "temp", r."__row" AS "__row"
FROM "16 derive" AS r
)
SELECT "by_distance", "drift", "swing", "temp", "__row"
FROM "17 project"
