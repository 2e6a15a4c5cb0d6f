package render

import "github.com/voicecore-ai/sluice/installer/profile"

// analyze runs 'sluice mesh analyze' in the cluster, on a schedule: what somebody
// writes after the installation is looked at without anybody asking.
func analyze(v *profile.Values) (Objects, error) {
	a := v.Addons.Analyze
	if !a.Enabled {
		return nil, nil
	}
	text, err := fill("addons/analyze.yaml", map[string]any{
		"Namespace": v.Addons.Namespace, "Root": v.Istio.Namespace, "Schedule": a.Schedule,
		"Image": image(v, a.Image), "PullSecret": v.Images.PullSecret,
	})
	if err != nil {
		return nil, err
	}
	return decode(text)
}
