//go:build !long

package e2e

// How many messages TestNewsletterGetsItsHalf has of the campaign and of the newsletter.
const (
	halfCampaign   = 1000
	halfNewsletter = 40
)
