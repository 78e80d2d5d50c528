/* How the grid writes numbers: SI prefixes and units, as everywhere else. The names are those that dash-ag-grid asks for. */
(function () {
  const UNKNOWN = "–";
  const own = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
  const digits = (x) => {
    const a = Math.abs(x);
    return a >= 99.95 ? x.toFixed(0) : a >= 9.995 ? x.toFixed(1) : x.toFixed(2);
  };
  own.probeSi = function (x) {
    if (x === null || x === undefined) return UNKNOWN;
    if (x === 0) return "0";
    for (const [scale, prefix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(x) >= scale * 0.9995) return digits(x / scale) + " " + prefix;
    return digits(x);
  };
  own.probeTime = function (s) {
    if (s === null || s === undefined) return UNKNOWN;
    if (s === 0) return "0 s";
    for (const [scale, unit] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]])
      if (Math.abs(s) >= scale * 0.9995) return digits(s / scale) + " " + unit;
    return digits(s / 1e-9) + " ns";
  };
  own.probePercent = function (x) {
    return x === null || x === undefined ? UNKNOWN : (x * 100).toFixed(1) + " %";
  };
  own.probeCalls = function (x) {
    return x === null || x === undefined ? UNKNOWN : x >= 99.95 || x === Math.round(x) ? x.toFixed(0) : x.toFixed(1);
  };
})();
