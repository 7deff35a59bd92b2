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
WHERE r."__event_us" <= (SELECT max(l."time") FROM "input entity_frame" AS l) AND r."__event_us" >= (SELECT min(l."time") FROM "input entity_frame" AS l) - 21600000000 AND greatest(r."__event_us", r."__created_us") <= 1388534400000000
),
"5 in range" AS MATERIALIZED (
SELECT * EXCLUDE (first, last), CAST(last - CAST(e AS HUGEINT) * 9223372036854775808 AS BIGINT) AS place, last - CAST(e AS HUGEINT) * 9223372036854775808 <> CAST(e AS HUGEINT) * 9223372036854775808 - first AS tied
FROM (
SELECT l."__row" AS "__row", any_value(l."time") AS t, max(s."__event_us") AS e, max(CAST(s."__event_us" AS HUGEINT) * 9223372036854775808 + (CAST(s."__file_number" AS BIGINT) * 1099511627776 + s."__file_row")) AS last, max(CAST(s."__event_us" AS HUGEINT) * 9223372036854775808 - (CAST(s."__file_number" AS BIGINT) * 1099511627776 + s."__file_row")) AS first
FROM "4 bounded" AS s
JOIN "input entity_frame" AS l ON s."airport" = l."key:origin" AND greatest(s."__event_us", s."__created_us") <= l."time" AND s."__event_us" >= l."time" - 21600000000
GROUP BY l."__row")
),
"6 tied" AS MATERIALIZED (
SELECT w."__row", w.e, l."key:origin" AS k0, l."time" AS t
FROM "5 in range" AS w
JOIN "input entity_frame" AS l ON l."__row" = w."__row"
WHERE w.tied
),
"7 tied places" AS MATERIALIZED (
SELECT w."__row", (CAST(s."__file_number" AS BIGINT) * 1099511627776 + s."__file_row") AS place
FROM "4 bounded" AS s
JOIN "6 tied" AS w ON s."airport" = w.k0 AND s."__event_us" = w.e AND greatest(s."__event_us", s."__created_us") <= w.t
),
"8 fetched" AS MATERIALIZED (
SELECT w.t, w.e, w."__row", w.tied, s."feature:temp" AS v0, s."feature:knots" AS v1, s."__deleted" AS v2, s."__created_us" AS o0, s."published_at" AS o1, s."wind" AS o2, s."year" AS o3
FROM "4 bounded" AS s
JOIN (
SELECT w.t, w.e, w."__row", w.place, false AS tied
FROM "5 in range" AS w WHERE NOT tied
UNION ALL
SELECT NULL AS t, NULL AS e, w."__row", w.place, true
FROM "7 tied places" AS w) AS w ON s."__file_row" = w.place % 1099511627776 AND s."__file_number" = w.place // 1099511627776
),
"9 settled" AS NOT MATERIALIZED (
SELECT "__row", t, e, v0, v1, v2
FROM "8 fetched" WHERE NOT tied
UNION ALL
SELECT w."__row", w.t, w.e, x.v0, x.v1, x.v2
FROM "5 in range" AS w
JOIN (
SELECT *
FROM "8 fetched" WHERE tied
QUALIFY row_number() OVER (PARTITION BY "__row" ORDER BY o0 DESC NULLS LAST, o1 DESC NULLS LAST, v0 DESC NULLS LAST, o2 DESC NULLS LAST, o3 DESC NULLS LAST) = 1) AS x ON x."__row" = w."__row"
WHERE w.tied
),
"10 answers" AS NOT MATERIALIZED (
SELECT CASE WHEN status = 1 THEN v0 END AS "out:temp", CASE WHEN status = 1 THEN v1 END AS "out:knots", status AS "status:conditions", "__row"
FROM (SELECT *, CAST(CASE WHEN v2 THEN 3 WHEN t - e <= 10800000000 THEN 1 WHEN t - e <= 21600000000 THEN 4 ELSE 3 END AS INTEGER) AS status FROM "9 settled")
),
"11 planes" AS NOT MATERIALIZED (
SELECT CASE WHEN f."c2" IS NULL THEN NULL WHEN TRY_CAST(f."c2" AS DATE) IS NOT NULL THEN TRY_CAST(f."c2" AS DATE) ELSE error('lossy value: ' || 'column ''bought'' of source ''planes''' || ': ' || CAST(f."c2" AS VARCHAR) || ' is not an exact date') END AS "bought", f."c3" AS "change", CASE WHEN f."c1" IS NULL THEN NULL WHEN CAST(TRY_CAST(f."c1" AS BIGINT) AS DOUBLE) = TRY_CAST(f."c1" AS DOUBLE) THEN TRY_CAST(f."c1" AS BIGINT) ELSE error('lossy value: ' || 'column ''seats'' of source ''planes''' || ': ' || CAST(f."c1" AS VARCHAR) || ' is not an exact int64') END AS "seats", f."c0" AS "tailnum"
FROM read_csv(['/data/planes.csv'], auto_detect = false, columns = {'c0': 'VARCHAR', 'c1': 'VARCHAR', 'c2': 'VARCHAR', 'c3': 'VARCHAR'}, delim = ';', header = true, nullstr = ['', 'NA'], quote = '"', escape = '"', hive_partitioning = false) AS f
),
"12 derive" AS NOT MATERIALIZED (
SELECT r."bought" AS "bought", r."change" AS "change", r."seats" AS "seats", r."tailnum" AS "tailnum", "seats" AS "feature:seats"
FROM "11 planes" AS r
),
"13 stamped" AS NOT MATERIALIZED (
SELECT r."bought" AS "bought", r."change" AS "change", r."seats" AS "seats", r."tailnum" AS "tailnum", r."feature:seats" AS "feature:seats", epoch_us(CAST(r."bought" AS TIMESTAMP)) + 86400000000 AS "__event_us", epoch_us(CAST(r."bought" AS TIMESTAMP)) + 86400000000 AS "__created_us", coalesce(r."change" = 'D', false) AS "__deleted"
FROM "12 derive" AS r
WHERE r."tailnum" IS NOT NULL AND r."bought" IS NOT NULL
),
"14 bounded" AS NOT MATERIALIZED (
SELECT r."bought" AS "bought", r."change" AS "change", r."seats" AS "seats", r."tailnum" AS "tailnum", r."feature:seats" AS "feature:seats", r."__event_us" AS "__event_us", r."__created_us" AS "__created_us", r."__deleted" AS "__deleted"
FROM "13 stamped" AS r
WHERE r."__event_us" <= (SELECT max(l."time") FROM "input entity_frame" AS l) AND greatest(r."__event_us", r."__created_us") <= 1388534400000000
),
"15 candidates" AS NOT MATERIALIZED (
SELECT s."tailnum" AS k0, s."__event_us" AS e
FROM "14 bounded" AS s
SEMI JOIN "input entity_frame" AS l ON s."tailnum" = l."key:tailnum"
),
"16 as of" AS MATERIALIZED (
SELECT l."__row" AS "__row", l."key:tailnum" AS k0, l."time" AS t, r.e
FROM "input entity_frame" AS l
ASOF JOIN "15 candidates" AS r ON l."key:tailnum" = r.k0 AND l."time" >= r.e
),
"17 several" AS MATERIALIZED (
SELECT k0, e
FROM (SELECT s."tailnum" AS k0, s."__event_us" AS e FROM "14 bounded" AS s
SEMI JOIN "16 as of" AS w ON s."tailnum" = w.k0 AND s."__event_us" = w.e)
GROUP BY k0, e
HAVING count(*) > 1
),
"18 counted" AS MATERIALIZED (
SELECT w.*, x.e IS NOT NULL AS tied
FROM "16 as of" AS w
LEFT JOIN "17 several" AS x ON x.k0 = w.k0 AND x.e = w.e
),
"19 tied" AS MATERIALIZED (
SELECT DISTINCT k0, e
FROM "18 counted" WHERE tied
),
"20 best" AS NOT MATERIALIZED (
SELECT *
FROM (SELECT w.k0, w.e, s."feature:seats" AS v0, s."__deleted" AS v1, row_number() OVER (PARTITION BY w.k0, w.e ORDER BY s."__created_us" DESC, s."seats" DESC NULLS LAST, s."bought" DESC NULLS LAST, s."change" DESC NULLS LAST, s."tailnum" DESC NULLS LAST) AS rank
FROM "14 bounded" AS s
JOIN "19 tied" AS w ON s."tailnum" = w.k0 AND s."__event_us" = w.e)
WHERE rank = 1
),
"21 settled" AS NOT MATERIALIZED (
SELECT w."__row", w.t, w.e, s."feature:seats" AS v0, s."__deleted" AS v1
FROM "14 bounded" AS s
JOIN (SELECT * FROM "18 counted" WHERE NOT tied) AS w ON s."tailnum" = w.k0 AND s."__event_us" = w.e
UNION ALL
SELECT w."__row", w.t, w.e, x.v0, x.v1
FROM "18 counted" AS w
JOIN "20 best" AS x ON x.k0 = w.k0 AND x.e = w.e
WHERE w.tied
),
"22 answers" AS NOT MATERIALIZED (
SELECT CASE WHEN status = 1 THEN v0 END AS "out:seats", status AS "status:fleet", "__row"
FROM (SELECT *, CAST(CASE WHEN v1 THEN 3 ELSE 1 END AS INTEGER) AS status FROM "21 settled")
),
"23 joined" AS NOT MATERIALIZED (
SELECT l."key:origin" AS "key:origin", l."key:tailnum" AS "key:tailnum", l."time" AS "time", j0."out:temp" AS "out:temp", j0."out:knots" AS "out:knots", coalesce(j0."status:conditions", 3) AS "status:conditions", j1."out:seats" AS "out:seats", coalesce(j1."status:fleet", 3) AS "status:fleet", l."__row" AS "__row"
FROM "input entity_frame" AS l
LEFT JOIN "10 answers" AS j0 ON j0."__row" = l."__row"
LEFT JOIN "22 answers" AS j1 ON j1."__row" = l."__row"
),
"24 project" AS NOT MATERIALIZED (
SELECT r."out:temp" AS "temp", r."out:knots" AS "knots", r."out:seats" AS "seats", r."status:conditions" AS "conditions__status", r."status:fleet" AS "fleet__status", r."__row" AS "__row"
FROM "23 joined" AS r
)
SELECT "temp", "knots", "seats", "conditions__status", "fleet__status"
FROM "24 project"
ORDER BY "__row"
