//go:build long

package exchange

// seeds is how many histories the model runs.
const seeds = 5000
