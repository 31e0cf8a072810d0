// Numbers and times as people read them.

export function count(number) {
  const n = number || 0;
  if (n < 10_000) return String(Math.round(n));
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)} k`;
  if (n < 1e9) return `${(n / 1e6).toFixed(n < 1e8 ? 1 : 0)} M`;
  return `${(n / 1e9).toFixed(1)} G`;
}

export function rate(perSecond) {
  const n = perSecond || 0;
  return n > 0 && n < 10 ? n.toFixed(1) : count(n);
}

export function micros(us) {
  const n = us || 0;
  if (n === 0) return "–";
  if (n < 1e3) return `${n < 10 ? n.toFixed(1) : Math.round(n)} µs`;
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e4 ? 2 : 1)} ms`;
  return `${(n / 1e6).toFixed(2)} s`;
}

export function bytes(number) {
  const n = number || 0;
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= size) return `${(n / size).toFixed(n < 10 * size ? 1 : 0)} ${unit}`;
  }
  return `${n} B`;
}

export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

// A clock time of today, with the date if it is another day's.
export function clock(ms) {
  if (!Number.isFinite(ms) || ms <= 0 || ms > 8.64e15) return "–";
  const at = new Date(ms);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toISOString().slice(0, 10)} `;
  return day + clockFormat.format(at);
}
