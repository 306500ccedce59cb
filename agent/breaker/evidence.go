package breaker

import "math"

// The test. Each recipient that a provider has settled is a trial, which failed (a hard bounce,
// a complaint) or did not. The question is whether trials fail more often than the bar, p0. It
// is asked after each failure, so thousands of times in a run, and a test for a number of trials
// that is fixed beforehand is wrong sooner or later if it is only asked often enough (P. Armitage,
// C. K. McPherson, B. C. Rowe, "Repeated significance tests on accumulating data", Journal of
// the Royal Statistical Society A 132, 1969): TestConfidenceHoldsOverAllLooks counts.
//
// So this is a sequential test of power one, which may be looked at whenever one likes (H.
// Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
// Mathematical Statistics 41, 1970). For one rate p above the bar, the likelihood ratio of
// Wald's sequential test is, after n trials of which s failed,
//
//	L(p) = (p/p0)^s * ((1-p)/(1-p0))^(n-s)
//
// As long as each trial fails with a probability of p0 at most, whatever came before, L(p) is a
// supermartingale that begins at 1, and so is an average of it over several p with weights that
// sum up to 1. The chance that such a thing ever reaches 1/a is at most a (J. Ville, "Étude
// critique de la notion de collectif", 1939). The average over rates makes it a test of "above
// the bar" in place of "at this rate". It asks at most log(1/weight) more than the test that
// knows the rate beforehand, which no test can do without on average (A. Wald, "Sequential
// tests of statistical hypotheses", Annals of Mathematical Statistics 16, 1945): log(1/a)
// divided by the relative entropy of the rate and the bar.
//
// A failure that is told late, as complaints are, was a success in the meantime. That makes the
// average smaller than it is in truth, never larger.

// alpha is the chance at most that a run whose mail is at the bar, and not above, is ever held
// by one test. There are two tests for each provider, so in a campaign to ten providers, all at
// both bars, the chance is 1 of 1,000 in all; below the bar it is far less.
const alpha = 1.0 / 20_000

// rates are those that the average is over, in bars, with their weights. Three times the bar has
// nearly all: there log(1/0.9) is a hundredth of log(1/alpha), and what is ill is found 15
// recipients later on average than by a test that knows the rate, of 2,650 at 0.3%; with a weight
// of 0.6 it is 90. The other rates are found up to a ninth later than with weights of a tenth.
var rates = [...]struct{ bars, weight float64 }{{1.5, 0.025}, {2, 0.025}, {3, 0.9}, {6, 0.025}, {12, 0.025}}

// mostRate is the highest rate that is compared with the bar.
const mostRate = 0.95

// least is how many trials there must be. Fewer would do if each were alike, but five addresses of a
// firm that is gone stand side by side in many a list. Others judge from a hundred recipients on,
// too (kulea.freshdesk.com/support/solutions/articles/17000047926,
// emailit.com/docs/deliverability/sending-health.md).
const least = 100

// proven says whether failed of trials are above the bar with confidence, also if that was asked
// after each of them.
func proven(trials, failed int, bar float64) bool {
	if trials < least || float64(failed) <= bar*float64(trials) {
		return false // no rate above the bar is likelier than the bar
	}
	return evidence(trials, failed, bar) >= math.Log(1/alpha)
}

// evidence is the logarithm of the average.
func evidence(trials, failed int, bar float64) float64 {
	failed = min(failed, trials)
	var logs [len(rates)]float64
	top := math.Inf(-1)
	for i, r := range rates {
		p := max(bar, min(bar*r.bars, mostRate))
		logs[i] = math.Log(r.weight) + ratio(trials, failed, bar, p)
		top = max(top, logs[i])
	}
	sum := 0.0
	for _, x := range logs {
		sum += math.Exp(x - top)
	}
	return top + math.Log(sum)
}

// ratio is the logarithm of the likelihood ratio of a rate and the bar.
func ratio(trials, failed int, bar, rate float64) float64 {
	return float64(failed)*math.Log(rate/bar) + float64(trials-failed)*math.Log((1-rate)/(1-bar))
}
